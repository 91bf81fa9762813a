// The client side of resumable streams: `RejoinChatTransport` for `useChat`, built on `Answer`, which reads one
// response across any number of broken connections. No dependencies; runs in browsers and in Node ≥ 20.
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
const lost = (why) => new TypeError(`network error: ${why}`);

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

async function refusal(response) {
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

/** Remembers the events that were passed on, so that a repetition from the start can be skipped. */
export class Sent {
  #sent = [];
  #at = null; // while events repeat: how many were equal so far
  #resets;

  constructor({ resets = true } = {}) {
    this.#resets = resets;
  }

  /** The events are repeated from now on, from the first one. */
  again() {
    this.#at = 0;
  }

  /** The events to pass on for an event. Throws if it contradicts shown events that cannot be voided. */
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

  /** The events to pass on at the end, which may come earlier than the first time. */
  end() {
    return this.#at !== null && this.#at < this.#sent.length ? this.#rewound() : [];
  }

  /** Void the current step and repeat its valid part. Clients cannot void earlier steps. */
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

// Browsers have no randomUUID on plain http origins other than localhost.
const fresh = () => crypto.randomUUID?.() ?? crypto.getRandomValues(new Uint32Array(4)).join('-');

/** `useChat({ transport: new RejoinChatTransport() })`. It takes the options of the default transport and a few more. */
export class RejoinChatTransport {
  resumeStreamIsReplay = true;
  #options;
  #unanswered = new Map(); // chat → the message that is being sent: the server may not have it yet
  #edits = new Map(); // approval → the arguments that a person has made of the shown ones

  constructor(options = {}) {
    this.#options = { api: '/api/chat', ui: 7, ...options };
  }

  /** Send what `useChat` posts, again until there is a response: the idempotency key makes it one run. */
  async sendMessages({ chatId, messages, trigger, messageId, abortSignal, headers, body }) {
    const own = await resolved(this.#options.body);
    const sent = messages.map((message) => this.#withEdits(message));
    const said = JSON.stringify({ ...own, ...body, id: chatId, messages: sent, trigger, messageId });
    const posted = { 'content-type': 'application/json', 'idempotency-key': fresh() };
    const asked = { method: 'POST', body: said };
    const answer = this.#answer(abortSignal, headers, (fetch) => fetch('', asked, posted));
    if (trigger === 'submit-message' && messages.at(-1)?.role === 'user') this.#unanswered.set(chatId, messages.at(-1).id);
    const begun = await answer.begin().finally(() => this.#unanswered.delete(chatId));
    return stream(begun ? answer : null, this.#options.ui);
  }

  /** The answer of the active run, from its first event; null if no run is active. */
  async reconnectToStream({ chatId, abortSignal, headers }) {
    const path = `/${encodeURIComponent(chatId)}/stream`;
    const answer = this.#answer(abortSignal, headers, (fetch) => fetch(path));
    return (await answer.begin()) ? stream(answer, this.#options.ui) : null;
  }

  /**
   * Interrupt the run, or the one that answers the message `messageId`. What is behind `lastPart`, the last part
   * that the user has seen, is cut from the history. `stop()` of `useChat` only stops reading.
   */
  async interrupt(chatId, { headers, lastPart, messageId = this.#unanswered.get(chatId) } = {}) {
    const asked = { method: 'POST', body: JSON.stringify({ messageId, lastPart }) };
    const more = { 'content-type': 'application/json' };
    const response = await this.#fetch(headers)(`/${encodeURIComponent(chatId)}/stop`, asked, more);
    if (!response.ok) throw await refusal(response);
    return response.json();
  }

  /** The arguments with which an approved call runs: say them before `addToolApprovalResponse({ id, approved: true })`. */
  editInput(approvalId, input) {
    this.#edits.set(approvalId, input);
  }

  /** Decide an approval without `useChat`; the chunks that follow, none while the run waits for more. */
  approve(chatId, approvalId, { approved, reason, input, ...options }) {
    const approval = { id: approvalId, approved, reason, input };
    return this.#respond(chatId, { type: 'dynamic-tool', state: 'approval-responded', approval }, options);
  }

  /** Answer the call of a client tool without `useChat`: `output`, or `errorText` in its place. As `approve`. */
  addToolOutput(chatId, toolCallId, { output, errorText, ...options }) {
    const given = errorText === undefined ? { state: 'output-available', output } : { state: 'output-error', errorText };
    return this.#respond(chatId, { type: 'dynamic-tool', toolCallId, ...given }, options);
  }

  #respond(chatId, part, options) {
    const messages = [{ id: 'answered', role: 'assistant', parts: [part] }];
    return this.sendMessages({ ...options, chatId, messages, trigger: 'submit-message' });
  }

  /** The message as the server takes it: `addToolApprovalResponse` has no place for changed arguments. */
  #withEdits(message) {
    if (message.role !== 'assistant' || !this.#edits.size) return message;
    const changed = ({ state, approval }) =>
      state === 'approval-responded' && approval?.approved && this.#edits.has(approval.id);
    const parts = message.parts.map((part) =>
      changed(part) ? { ...part, approval: { ...part.approval, input: this.#edits.get(part.approval.id) } } : part);
    return { ...message, parts };
  }

  /**
   * Send a message to the run that works, beside `useChat`: its model reads the message at its next step. `message` is
   * a text or a UI message. `steering`: whether the run has it; then the stream that `useChat` reads gets a
   * `steering-message`, or, if the run ends before, the message is the next turn. Without a run at work it is a message
   * as any, and `resumeStream()` reads its answer.
   */
  async steer(chatId, message, { headers, body } = {}) {
    const parts = typeof message === 'string' ? [{ type: 'text', text: message }] : message.parts;
    const sent = { role: 'user', ...(typeof message === 'string' ? {} : message), id: message.id ?? fresh(), parts };
    const own = await resolved(this.#options.body);
    const said = { ...own, ...body, id: chatId, messages: [sent], trigger: 'submit-message', whenBusy: 'steer' };
    const asked = { method: 'POST', body: JSON.stringify(said) };
    // The state that is shown is that of the answer which the message steers: sending says none.
    const posted = { 'content-type': 'application/json' };
    const answer = this.#answer(undefined, headers, (fetch) => fetch('', asked, posted), { onState: undefined });
    const isAnswered = await answer.begin();
    if (isAnswered) answer.leave();
    return { steering: !isAnswered, messageId: sent.id };
  }

  #fetch(headers, signal) {
    const { api, ui, credentials, fetch = globalThis.fetch, headers: own } = this.#options;
    return async (path, init = {}, more = {}) => {
      const url = below(api, path);
      const told = `${url}${url.includes('?') ? '&' : '?'}ui=${ui}`;
      const all = { ...(await named(own)), ...(await named(headers)), ...more };
      return fetch(told, { cache: 'no-store', credentials, ...init, headers: all, signal });
    };
  }

  #answer(signal, headers, open, own = {}) {
    const { onState, retryForMs, readTimeoutMs } = { ...this.#options, ...own };
    return new Answer({
      signal,
      onState,
      retryForMs,
      readTimeoutMs,
      open: (both) => open(this.#fetch(headers, both)),
      // By the run, not by the session, which may have a newer run.
      resume: ({ run, cursor }, both) =>
        this.#fetch(headers, both)(`/${encodeURIComponent(run)}/stream`, {}, { 'last-event-id': cursor }),
    });
  }
}

/** The chunks of an answer, as `useChat` reads them. */
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
