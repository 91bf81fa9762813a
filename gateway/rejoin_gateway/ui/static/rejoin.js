// The client's half of a stream that can be rejoined: `RejoinChatTransport` for `useChat`, over `Answer`, which is
// one response through any number of broken connections. No dependency; runs in browsers and in Node ≥ 20.
//
// The law is the server's: every event has an id, `Last-Event-ID` continues behind it, 410 says that the place is
// gone, and only `[DONE]` says that the answer is whole. A body that ends without it has broken, however politely.

const WAIT_FIRST_MS = 250, WAIT_MAX_MS = 5_000;
const SILENCE_MS = 30_000; // a gateway says something every ten seconds: this connection is dead
const PATIENCE_MS = 10 * 60_000;
const AWAY = [408, 429, 502, 503, 504]; // somebody in between answers; the request is as good as not sent

/** The server understood, and said no. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    Object.assign(this, { name: 'Refused', status });
  }
}

/** Nothing of what was shown can be continued. `useChat` takes it for a lost connection: `resumeStream()` helps. */
const lost = (why) => new TypeError(`network error: ${why}`);

/** The events of a body, `{ id, data }`; ends when the body does, for whatever reason. */
async function* frames(body, silenceMs, silent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '', id = '', data = [];
  try {
    for (;;) {
      const timer = setTimeout(silent, silenceMs);
      const { value, done } = await reader.read().catch(() => ({ done: true }));
      clearTimeout(timer);
      if (done) return;
      const lines = (rest + value).split('\n');
      rest = lines.pop(); // a read may end anywhere
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

async function refusal(response) {
  const text = await response.text().catch(() => '');
  let said;
  try {
    said = JSON.parse(text);
  } catch {
    said = {};
  }
  const detail = said.detail ?? said.error?.message ?? said.error;
  return new Refused(response.status, typeof detail === 'string' ? detail : text || `The server answered ${response.status}.`);
}

/**
 * One answer. `open(signal)` makes the request that begins it, and may be made again: the server knows it by its
 * ids. `resume({ run, cursor }, signal)` asks for what is behind a cursor. Both return a `fetch`.
 */
export class Answer {
  run = '';
  cursor = '';
  breaks = 0;
  #open;
  #resume;
  #signal;
  #onState;
  #patienceMs;
  #silenceMs;
  #response;
  #connection = new AbortController();
  #wait = WAIT_FIRST_MS;
  #deadline = 0;
  #left = new AbortController();

  constructor({ open, resume, signal, onState = () => {}, patienceMs = PATIENCE_MS, silenceMs = SILENCE_MS }) {
    this.#open = open;
    this.#resume = resume;
    this.#signal = signal ? AbortSignal.any([signal, this.#left.signal]) : this.#left.signal;
    this.#onState = onState;
    this.#patienceMs = patienceMs;
    this.#silenceMs = silenceMs;
  }

  /** The first response that is one; false if there is nothing to read. Throws `Refused`. */
  async begin() {
    this.#tell('waiting');
    await this.#ask(this.#open, this.#silenceMs);
    this.run = this.#response.headers.get('x-workflow-run-id') ?? '';
    const type = this.#response.headers.get('content-type') ?? '';
    return this.#response.status !== 204 && !type.includes('json'); // JSON: taken, but others are to decide first
  }

  /** The whole of an answer that is no stream; null for none. */
  async json() {
    await this.#ask(this.#open);
    return this.#response.status === 204 ? null : this.#response.json();
  }

  /** `{ cursor, chunk }` for every event, once, in order; `{ restart: true }` before all of them come again. */
  async *events() {
    for (;;) {
      this.#tell('streaming');
      for await (const { id, data } of frames(this.#response.body, this.#silenceMs, () => this.#connection.abort())) {
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
        if (!(await this.#again())) yield { restart: true };
      } catch (fault) {
        if (this.#left.signal.aborted) return;
        throw fault;
      }
    }
  }

  /** Nobody reads it any more. The run goes on without us. */
  leave() {
    this.#left.abort();
  }

  /** Behind the last event; false: that place is gone, and it begins again. */
  async #again() {
    const { run, cursor } = this;
    if (cursor) {
      try {
        await this.#ask((signal) => this.#resume({ run, cursor }, signal), this.#silenceMs);
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

  /** Until somebody answers. Throws `Refused`, the caller's reason to abort, or an error when patience is over. */
  async #ask(request, silenceMs) {
    for (;;) {
      const connection = (this.#connection = new AbortController());
      const timer = silenceMs && setTimeout(() => connection.abort(), silenceMs);
      const response = await request(AbortSignal.any([this.#signal, connection.signal])).catch(() => null);
      clearTimeout(timer);
      if (response?.ok) return (this.#response = response);
      if (response && !AWAY.includes(response.status)) throw await refusal(response);
      await this.#pause(Number(response?.headers.get('retry-after')) * 1_000);
    }
  }

  /** Before the next try: longer each time, and over at once when the network is back. */
  async #pause(wishMs = 0) {
    this.#signal.throwIfAborted();
    this.#tell('reconnecting');
    this.#deadline ||= Date.now() + this.#patienceMs;
    const wait = Math.max(Math.min(wishMs || 0, WAIT_MAX_MS), this.#wait * (0.75 + Math.random() / 2));
    this.#wait = Math.min(this.#wait * 2, WAIT_MAX_MS);
    if (Date.now() + wait > this.#deadline) throw lost('nobody answered for too long');
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

/** What was handed on, so that a repetition from the first event can be joined to it. */
export class Sent {
  #sent = [];
  #at = null; // while events repeat: how many of them were the same
  #resets;

  constructor({ resets = true } = {}) {
    this.#resets = resets;
  }

  /** From here on the events come again, from the first one. */
  again() {
    this.#at = 0;
  }

  /** What to hand on for an event. Throws if what was shown contradicts it, and cannot be taken back. */
  take(chunk) {
    const text = JSON.stringify(chunk);
    if (this.#at !== null && this.#at < this.#sent.length) {
      if (text === this.#sent[this.#at]) {
        this.#at += 1;
        return [];
      }
      return [...this.#rewound(), ...this.take(chunk)];
    }
    this.#at = null;
    this.#sent.push(text);
    return [chunk];
  }

  /** What to hand on at the end: it may come earlier than the first time. */
  end() {
    return this.#at !== null && this.#at < this.#sent.length ? this.#rewound() : [];
  }

  /** Void the open step, and say again what of it still holds. Earlier steps no client can take back. */
  #rewound() {
    const step = this.#sent.lastIndexOf('{"type":"start-step"}');
    if (!this.#resets || step < 0 || this.#at <= step) throw lost('what was shown no longer holds');
    this.#sent.length = this.#at;
    this.#at = null;
    return [{ type: 'reset-step' }, ...this.#sent.slice(step + 1).map((text) => JSON.parse(text))];
  }
}

const resolved = (value) => (typeof value === 'function' ? value() : value);
const named = async (value) => Object.fromEntries(new Headers((await resolved(value)) ?? {}));

/** `path` below `api`, which may have a query. */
function below(api, path) {
  const [, base, query] = /^([^?#]*)(.*)$/s.exec(api);
  return `${base}${path}${query}`;
}

// There is no randomUUID on a plain http origin other than localhost.
const fresh = () => crypto.randomUUID?.() ?? crypto.getRandomValues(new Uint32Array(4)).join('-');

/** `useChat({ transport: new RejoinChatTransport() })`. Its options are those of the stock transport, and a few. */
export class RejoinChatTransport {
  resumeStreamIsReplay = true;
  #options;

  constructor(options = {}) {
    this.#options = { api: '/api/chat', ui: 7, ...options };
  }

  /** What `useChat` posts. Made again until it is answered: one key, one run. */
  async sendMessages({ chatId, messages, trigger, messageId, abortSignal, headers, body }) {
    const own = await resolved(this.#options.body);
    const said = JSON.stringify({ ...own, ...body, id: chatId, messages, trigger, messageId });
    const posted = { 'content-type': 'application/json', 'idempotency-key': fresh() };
    const asked = { method: 'POST', body: said };
    const answer = this.#answer(abortSignal, headers, (fetch) => fetch('', asked, posted));
    return stream((await answer.begin()) ? answer : null, this.#options.ui);
  }

  /** The running answer of a session, from its first event; null if nothing runs. */
  async reconnectToStream({ chatId, abortSignal, headers }) {
    const path = `/${encodeURIComponent(chatId)}/stream`;
    const answer = this.#answer(abortSignal, headers, (fetch) => fetch(path));
    return (await answer.begin()) ? stream(answer, this.#options.ui) : null;
  }

  /** Stop the run. `stop()` of `useChat` only stops listening. */
  async interrupt(chatId, { headers } = {}) {
    const response = await this.#fetch(headers)(`/${encodeURIComponent(chatId)}/stop`, { method: 'POST' });
    if (!response.ok) throw await refusal(response);
    return response.json();
  }

  #fetch(headers, signal) {
    const { api, ui, credentials, fetch = globalThis.fetch, headers: own } = this.#options;
    return async (path, init = {}, more = {}) => {
      const url = below(api, path);
      const told = ui === 7 ? url : `${url}${url.includes('?') ? '&' : '?'}ui=${ui}`;
      const all = { ...(await named(own)), ...(await named(headers)), ...more };
      return fetch(told, { cache: 'no-store', credentials, ...init, headers: all, signal });
    };
  }

  #answer(signal, headers, open) {
    const { onState, patienceMs, silenceMs } = this.#options;
    return new Answer({
      signal,
      onState,
      patienceMs,
      silenceMs,
      open: (both) => open(this.#fetch(headers, both)),
      // By the run, not by the session: that may have a newer one.
      resume: ({ run, cursor }, both) =>
        this.#fetch(headers, both)(`/${encodeURIComponent(run)}/stream`, {}, { 'last-event-id': cursor }),
    });
  }
}

/** The chunks of an answer as `useChat` reads them. */
function stream(answer, ui) {
  const chunks = answer ? joined(answer, new Sent({ resets: ui === 7 })) : null;
  return new ReadableStream({
    async pull(controller) {
      const { value, done } = chunks ? await chunks.next() : { done: true };
      if (done) controller.close();
      else controller.enqueue(value);
    },
    cancel: () => answer?.leave(),
  });
}

async function* joined(answer, sent) {
  for await (const event of answer.events()) {
    if (event.restart) sent.again();
    else yield* sent.take(event.chunk);
  }
  yield* sent.end();
}
