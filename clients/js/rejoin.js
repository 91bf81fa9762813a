// The client side of resumable streams: `RejoinChatTransport` for `useChat`, built on `Answer`, which reads one
// response across any number of broken connections. No dependencies; runs in browsers and in Node ≥ 20.

import { Answer, lost, Refused, refusal } from './answer.js';

export { Answer, Refused };

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
