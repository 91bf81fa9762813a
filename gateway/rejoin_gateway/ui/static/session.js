// One session in this tab. The server holds the state: the stored messages, and the stream of the active run,
// which is read from its start or, after a broken connection, from behind the last event.

import { waitsForOutput } from './calls.js';
import { Fold } from './fold.js';
import { Answer } from './answer.js';
import { wire } from './wire.js';

const AGAIN_MS = 250;
const TAPE_MAX = 160;
const OVER = ['completed', 'failed', 'cancelled'];

// Browsers have no randomUUID on plain http origins other than localhost.
export const fresh = () => crypto.randomUUID?.() ?? crypto.getRandomValues(new Uint32Array(4)).join('-');

/** How a stream ended, by the type of its first such event. */
const ENDS = { abort: 'stopped', error: 'failed', finish: 'finished' };

/** The state of a stream before its first event. `astray` counts events that came twice or out of order. */
const newStream = () => ({ state: '', ended: '', run: '', cursor: '', breaks: 0, rewinds: 0, events: 0, astray: 0, tape: [] });

export class Session {
  messages = [];
  /** Message id → id of its run. */
  runs = new Map();
  title = '';
  busy = false;
  fault = '';
  live = newStream();
  /** Messages that were sent while a run works, and that its model has not read yet. `whenBusy`: what becomes of them. */
  waiting = [];
  /** `{ value, remember }`: the request context as an object; null: none. */
  context = null;
  #signal = new AbortController();
  #notify;
  #channel;

  constructor(id, notify) {
    this.id = id;
    this.#notify = notify;
    this.#channel = new BroadcastChannel('rejoin');
    // Another tab has changed this session.
    this.#channel.onmessage = ({ data }) => data === this.id && this.refresh();
  }

  /** Stop watching: another session is shown now. The run continues. */
  leave() {
    this.#signal.abort();
    this.#channel.close();
  }

  /** Load the stored messages and follow the active run to its end. */
  open() {
    return this.#act(() => this.#load());
  }

  /** Load changes that another tab or client may have made. Does nothing while busy. */
  async refresh() {
    if (this.busy) return;
    const stored = await this.#stored().catch(() => null); // the next refresh tries again
    if (this.busy || this.#signal.signal.aborted || !stored) return;
    if (stored.active) await this.open();
    else this.#apply(stored);
  }

  /** Send a message. `parts` are UI message parts of the AI SDK. */
  send(parts) {
    return this.#act(async () => {
      const message = { id: fresh(), role: 'user', parts };
      const before = this.messages;
      this.title ||= parts.find(({ type }) => type === 'text')?.text ?? '';
      this.messages = [...before, message];
      await this.#request(this.#newMessage(message), before);
    });
  }

  /**
   * Send a message while a run works. `steer`: its model reads it at its next step, or it is the next turn; `enqueue`:
   * it is the next turn. False if it was refused.
   */
  async add(parts, whenBusy) {
    const message = { id: fresh(), role: 'user', parts };
    this.waiting = [...this.waiting, { ...message, whenBusy }];
    this.#notify();
    const fields = { messages: [message], whenBusy };
    const answer = new Answer({ open: this.#chat(fields), resume: () => null, signal: this.#signal.signal });
    try {
      if (await answer.begin()) answer.leave();
    } catch (fault) {
      this.#isRead(message.id);
      this.fault = fault.message;
      this.#notify();
      return false;
    }
    if (!this.busy) await this.open(); // the run has ended meanwhile
    return true;
  }

  #isRead(id) {
    this.waiting = this.waiting.filter((message) => message.id !== id);
  }

  /** Replace the text of a message; later messages are deleted. */
  edit(message, text) {
    return this.#act(async () => {
      const files = message.parts.filter((part) => part.type !== 'text');
      const edited = { ...message, parts: [...files, { type: 'text', text }] };
      const before = this.messages;
      this.messages = [...before.slice(0, this.#at(message)), edited];
      await this.#request(this.#chat({ messages: [edited], messageId: message.id }), before);
    });
  }

  /** Replace an answer by a new one. */
  regenerate(message) {
    return this.#act(async () => {
      const before = this.messages;
      this.messages = before.slice(0, this.#at(message));
      const body = { trigger: 'regenerate-message', messageId: message.id, messages: this.messages.slice(-1) };
      await this.#request(this.#chat(body), before);
    });
  }

  /** What a run waits for: approvals and outputs of client tools, with their schemas. Null if it cannot be asked. */
  async pending(run) {
    return wire.json(`/run/api/executions/${run}`).catch(() => null);
  }

  /** Decide the approval of a tool call: `{ approved, reason?, input? }`. Throws `Refused` if it does not fit. */
  decide(run, { toolCallId }, decision) {
    return this.#answer(`/run/api/executions/${run}/approvals/${encodeURIComponent(toolCallId)}`, decision);
  }

  /** Answer the call of a client tool: `{ output }` or `{ errorText }`. Throws `Refused` if it does not fit. */
  output(run, { toolCallId }, given) {
    return this.#answer(`/run/api/executions/${run}/tool-outputs/${encodeURIComponent(toolCallId)}`, given);
  }

  /** Interrupt the run. Its stream ends with an event that says so. */
  stop() {
    return wire.fetch(`/api/chat/${encodeURIComponent(this.id)}/stop`, { method: 'POST' }).catch(() => {});
  }

  // ---- requests

  /** Send what a call waits for, and follow what comes of it. The same answer again changes nothing. */
  async #answer(path, body) {
    let refused;
    await this.#act(async () => {
      try {
        await wire.json(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
      } catch (fault) {
        if (fault.status === 400) {
          refused = fault; // for the form
          return;
        }
        await this.#load(); // it may have been answered elsewhere
        throw fault;
      }
      this.#channel.postMessage(this.id);
      await this.#load();
    });
    if (refused) throw refused;
  }

  #at({ id }) {
    return this.messages.findIndex((message) => message.id === id);
  }

  /** Run one task at a time: loading, or an answer. */
  async #act(task) {
    if (this.busy) return;
    this.busy = true;
    this.fault = '';
    this.#notify();
    try {
      await task();
      if (this.waiting.length) await this.#load(); // what the run has not read is the next turn
    } catch (fault) {
      if (this.#signal.signal.aborted) return;
      this.fault = fault.message;
    }
    this.busy = false;
    const isWaiting = this.messages.at(-1)?.parts.some((part) => part.state === 'approval-requested' || waitsForOutput(part));
    this.#show({ state: this.live.cursor && (isWaiting ? 'suspended' : this.live.ended || 'failed') });
  }

  #chat(fields) {
    return wire.post('/api/chat?ui=7', { id: this.id, trigger: 'submit-message', ...fields }, this.#headers('idempotency-key'));
  }

  #newMessage(message) {
    const { context } = this;
    if (!context || context.remember) return this.#chat({ messages: [message] });
    const path = `/api/agents/${encodeURIComponent(wire.agent)}/${encodeURIComponent(this.id)}?ui=7`;
    return wire.post(path, { message, context: context.value }, this.#headers());
  }

  /** Requests with the same idempotency key are one request. A context to be remembered is sent as headers. */
  #headers(key) {
    const context = this.context?.remember ? Object.entries(this.context.value) : [];
    const headers = Object.fromEntries(context.map(([name, value]) => [name, String(value)]));
    return { ...headers, ...(key && { [key]: fresh() }), 'x-emit-operations': 'true' };
  }

  async #request(open, before) {
    try {
      await this.#follow(open);
    } catch (fault) {
      if (fault.name === 'Refused') this.messages = before; // the server refused the message
      throw fault;
    }
  }

  async #stored() {
    const path = `/run/v1/conversations/${encodeURIComponent(this.id)}`;
    const [stored, runs] = await Promise.all([wire.json(`${path}?limit=200`), wire.json(`${path}/executions`)]);
    return stored && { ...stored.data, executions: runs?.executions ?? [] };
  }

  #apply({ messages, title, agentId, executions, active }) {
    // The answer in progress is not stored: what is shown of it stays until its stream has caught up.
    const last = this.messages.at(-1);
    const isGoingOn = active && last && !messages.some(({ id }) => id === last.id) && executions.some(({ messageId, state }) => messageId === last.id && !OVER.includes(state));
    this.messages = isGoingOn ? [...messages, last] : messages;
    for (const { id } of messages) this.#isRead(id);
    this.title = title ?? '';
    for (const { id, messageId } of executions) this.runs.set(messageId, id);
    wire.agent = agentId;
    this.#notify();
  }

  /** Load the stored session and follow the active run, until no run is active. */
  async #load() {
    for (;;) {
      const stored = await this.#stored();
      if (this.#signal.signal.aborted || !stored) return;
      this.#apply(stored);
      const headers = { 'x-emit-operations': 'true' };
      const path = `/run/v1/conversations/${encodeURIComponent(this.id)}/stream?ui=7`;
      const resumed = await this.#follow((signal) => wire.fetch(path, { headers, signal }));
      if (!resumed && !stored.active) return;
      if (resumed) continue;
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS)); // the run ended between the two requests
    }
  }

  /** Fold a stream into a message, across broken connections. Returns false if no run is active. */
  async #follow(open) {
    const before = this.live;
    const { signal } = this.#signal;
    const resume = ({ run, cursor }, both) =>
      wire.fetch(`/api/chat/${run}/stream?ui=7`, { headers: { 'last-event-id': cursor, 'x-emit-operations': 'true' }, signal: both });
    const answer = new Answer({ open, resume, signal, onState: (changes) => this.#show(changes) });
    this.live = newStream();
    if (!(await answer.begin())) {
      this.live = before;
      this.#notify();
      return false;
    }
    this.#channel.postMessage(this.id);
    let fold = new Fold();
    for await (const { restart, cursor, chunk } of answer.events()) {
      if (restart) {
        fold = new Fold();
        this.live = { ...newStream(), breaks: this.live.breaks };
        continue;
      }
      fold.add(chunk);
      if (chunk.type === 'steering-message') this.#isRead(chunk.id);
      this.#place(fold.message, answer.run);
      this.#count(cursor, chunk);
    }
    this.#place(fold.message, answer.run, true);
    this.#channel.postMessage(this.id);
    return true;
  }

  /** Show a message. One that is folded again is shown when it has caught up with what is shown, or `isWhole`. */
  #place(message, run, isWhole = false) {
    if (!message.id) return;
    this.runs.set(message.id, run);
    const at = this.#at(message);
    const shown = this.messages[at];
    if (shown === message || (shown?.parts.length > message.parts.length && !isWhole)) return;
    const rest = at < 0 ? this.messages : this.messages.filter((_, number) => number !== at);
    this.messages = at < 0 ? [...rest, message] : this.messages.with(at, message);
  }

  /** Update the counts. A cursor ends with the number of its event in the run; an answer that the log lacks has none. */
  #count(cursor, chunk) {
    if (cursor === this.live.cursor) return;
    const number = Number(cursor.slice(cursor.indexOf('-') + 1));
    const { last = number - 1, ended, events, astray, rewinds, tape, breaks } = this.live;
    tape.push({ kind: chunk.type.split('-')[0], breaks });
    if (tape.length > TAPE_MAX) tape.shift();
    this.#show({
      cursor,
      last: number,
      ended: ended || (ENDS[chunk.type] ?? ''),
      events: events + 1,
      astray: astray + (number === last + 1 ? 0 : 1),
      rewinds: rewinds + (chunk.type === 'reset-step' ? 1 : 0),
    });
  }

  #show(changes) {
    Object.assign(this.live, changes);
    this.#notify();
  }
}
