// One answer's events across any number of broken connections. No dependencies; runs in browsers and in Node ≥ 20. The
// pages of a gateway and the npm package `rejoin` have this same file.
//
// The server's rules: every event has an id, `Last-Event-ID` continues behind it, 410 means that this position no
// longer exists, and only `[DONE]` marks a complete answer. A body that ends without it counts as broken. 204 to
// `Last-Event-ID` says that the run has ended with that event.

const WAIT_FIRST_MS = 250, WAIT_MAX_MS = 5_000;
const READ_TIMEOUT_MS = 30_000; // a gateway sends something every ten seconds
const RETRY_FOR_MS = 10 * 60_000;
const AWAY = [408, 429, 502, 503, 504]; // from a proxy or an overloaded gateway: send the request again

/** The server refused the request. `pointer`: JSON pointer to what is wrong with it, or empty. */
export class Refused extends Error {
  constructor(status, detail, pointer = '') {
    super(detail);
    Object.assign(this, { name: 'Refused', status, pointer });
  }
}

/** The shown events cannot be continued. `useChat` treats it as a lost connection: call `resumeStream()`. */
export const lost = (why) => new TypeError(`network error: ${why}`);

/** The events of a body, `{ id, data }`, until the body ends or breaks. */
async function* frames(body, readTimeoutMs, silent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '', id = '', data = [];
  try {
    for (;;) {
      const timer = setTimeout(silent, readTimeoutMs);
      const { value, done } = await reader.read().catch(() => ({ done: true }));
      clearTimeout(timer);
      if (done) return;
      const lines = (rest + value).split('\n');
      rest = lines.pop(); // a read may end within a line
      for (const raw of lines) {
        const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw;
        const [, field, text] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
        if (field === 'id') id = text ?? '';
        else if (field === 'data') data.push(text ?? '');
        else if (line === '' && data.length) yield { id, data: data.splice(0).join('\n') };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

export async function refusal(response) {
  const text = await response.text().catch(() => '');
  let said;
  try {
    said = JSON.parse(text);
  } catch {
    said = {};
  }
  const detail = said.detail ?? said.error?.message ?? said.error;
  return new Refused(response.status, typeof detail === 'string' ? detail : text || `The server answered ${response.status}.`, said.errors?.[0]?.pointer);
}

/**
 * One answer. `open(signal)` sends the request that starts it; it may be sent again, because the server recognizes
 * its ids. `resume({ run, cursor }, signal)` requests the events behind a cursor. Both return a `fetch`.
 */
export class Answer {
  run = '';
  cursor = '';
  breaks = 0;
  #open;
  #resume;
  #signal;
  #onState;
  #retryForMs;
  #readTimeoutMs;
  #response;
  #connection = new AbortController();
  #wait = WAIT_FIRST_MS;
  #deadline = 0;
  #left = new AbortController();

  constructor({ open, resume, signal, onState = () => {}, retryForMs = RETRY_FOR_MS, readTimeoutMs = READ_TIMEOUT_MS }) {
    this.#open = open;
    this.#resume = resume;
    this.#signal = signal ? AbortSignal.any([signal, this.#left.signal]) : this.#left.signal;
    this.#onState = onState;
    this.#retryForMs = retryForMs;
    this.#readTimeoutMs = readTimeoutMs;
  }

  /** Get the first response; false if it has no stream. Throws `Refused`. */
  async begin() {
    this.#tell('waiting');
    await this.#ask(this.#open, this.#readTimeoutMs);
    this.run = this.#response.headers.get('x-workflow-run-id') ?? '';
    const type = this.#response.headers.get('content-type') ?? '';
    return this.#response.status !== 204 && !type.includes('json'); // JSON: the run waits for further decisions
  }

  /** The JSON of an answer that is not a stream; null for 204. */
  async json() {
    await this.#ask(this.#open);
    return this.#response.status === 204 ? null : this.#response.json();
  }

  /** `{ cursor, chunk }` for every event, once, in order; `{ restart: true }` before all events are repeated. */
  async *events() {
    for (;;) {
      this.#tell('streaming');
      for await (const { id, data } of frames(this.#response.body, this.#readTimeoutMs, () => this.#connection.abort())) {
        if (data === '[DONE]') return;
        this.#wait = WAIT_FIRST_MS;
        this.#deadline = 0;
        this.cursor = id || this.cursor;
        yield { cursor: this.cursor, chunk: JSON.parse(data) };
      }
      if (this.#left.signal.aborted) return;
      this.breaks += 1;
      try {
        await this.#pause();
        const kept = await this.#again();
        if (this.#response.status === 204) return; // only `[DONE]` was missing
        if (!kept) yield { restart: true };
      } catch (fault) {
        if (this.#left.signal.aborted) return;
        throw fault;
      }
    }
  }

  /** Stop reading. The run continues. */
  leave() {
    this.#left.abort();
  }

  /** Continue behind the last event; false if that position is gone and the stream starts again. */
  async #again() {
    const { run, cursor } = this;
    if (cursor) {
      try {
        await this.#ask((signal) => this.#resume({ run, cursor }, signal), this.#readTimeoutMs);
        if (this.#response.status === 204) return true; // the run has ended with this event
        if (this.#response.status === 200 && this.#response.headers.get('x-workflow-run-id') === run) return true;
      } catch (fault) {
        if (fault.status !== 410) throw fault;
      }
      this.#connection.abort();
    }
    this.cursor = '';
    if (!(await this.begin())) throw lost('the answer ended meanwhile; its history has it');
    return !cursor;
  }

  /** Retry until there is a response. Throws `Refused`, the abort reason, or an error after the last retry. */
  async #ask(request, readTimeoutMs) {
    for (;;) {
      const connection = (this.#connection = new AbortController());
      const timer = readTimeoutMs && setTimeout(() => connection.abort(), readTimeoutMs);
      const response = await request(AbortSignal.any([this.#signal, connection.signal])).catch(() => null);
      clearTimeout(timer);
      if (response?.ok) return (this.#response = response);
      if (response && !AWAY.includes(response.status)) throw await refusal(response);
      await this.#pause(Number(response?.headers.get('retry-after')) * 1_000);
    }
  }

  /** The wait before the next try: longer each time; ends when the browser is online again. */
  async #pause(wishMs = 0) {
    this.#signal.throwIfAborted();
    this.#tell('reconnecting');
    this.#deadline ||= Date.now() + this.#retryForMs;
    const wait = Math.max(Math.min(wishMs || 0, WAIT_MAX_MS), this.#wait * (0.75 + Math.random() / 2));
    this.#wait = Math.min(this.#wait * 2, WAIT_MAX_MS);
    if (Date.now() + wait > this.#deadline) throw lost('no answer for too long');
    await new Promise((resolve) => {
      const over = () => {
        clearTimeout(timer);
        globalThis.removeEventListener?.('online', over);
        this.#signal.removeEventListener('abort', over);
        resolve();
      };
      const timer = setTimeout(over, wait);
      globalThis.addEventListener?.('online', over);
      this.#signal.addEventListener('abort', over);
    });
    this.#signal.throwIfAborted();
  }

  #tell(state) {
    this.#onState({ state, run: this.run, cursor: this.cursor, breaks: this.breaks });
  }
}
