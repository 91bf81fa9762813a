// One conversation as this tab has it. The truth is with the server: the stored messages, and the stream of the
// running answer, which is rebuilt whole or, after a break, continued behind its last event.

import { Fold } from './fold.js';
import { Answer } from './rejoin.js';
import { wire } from './wire.js';

const AGAIN_MS = 250;
const TITLE_CHARS_MAX = 60;
const TAPE_MAX = 160;

// There is no randomUUID on a plain http origin other than localhost.
export const fresh = () => crypto.randomUUID?.() ?? crypto.getRandomValues(new Uint32Array(4)).join('-');

/** How a stream ended, by its last words; the first that comes counts. */
const ENDS = { abort: 'stopped', error: 'failed', finish: 'finished' };

/** What the stream's line says: how it stands, and whether every event came once and in order. */
const silent = () => ({ state: '', ended: '', run: '', cursor: '', breaks: 0, rewinds: 0, events: 0, astray: 0, tape: [] });

export class Conversation {
  messages = [];
  /** Which run made a message. */
  runs = new Map();
  title = '';
  busy = false;
  fault = '';
  live = silent();
  /** `{ value, remember }`: what the agent is to know beside the message, as an object. */
  context = null;
  #signal = new AbortController();
  #tell;
  #channel;

  constructor(id, tell) {
    this.id = id;
    this.#tell = tell;
    this.#channel = new BroadcastChannel('rejoin');
    // Another tab has gone on with this conversation.
    this.#channel.onmessage = ({ data }) => data === this.id && this.refresh();
  }

  /** Another conversation is shown now. The run goes on without us. */
  leave() {
    this.#signal.abort();
    this.#channel.close();
  }

  /** What is stored, and what runs, to its end. */
  open() {
    return this.#act(() => this.#load());
  }

  /** Somebody else may have gone on with it: look, without getting in anybody's way. */
  async refresh() {
    if (this.busy) return;
    const stored = await this.#stored().catch(() => null); // the next look will tell
    if (this.busy || this.#signal.signal.aborted || !stored) return;
    if (stored.active) await this.open();
    else this.#take(stored);
  }

  /** Say something. `parts` as the AI SDK has them. */
  send(parts) {
    return this.#act(async () => {
      const message = { id: fresh(), role: 'user', parts };
      const before = this.messages;
      this.messages = [...before, message];
      await this.#ask(this.#said(message), before);
    });
  }

  /** Say something else instead; what followed is dropped. */
  edit(message, text) {
    return this.#act(async () => {
      const files = message.parts.filter((part) => part.type !== 'text');
      const edited = { ...message, parts: [...files, { type: 'text', text }] };
      const before = this.messages;
      this.messages = [...before.slice(0, this.#at(message)), edited];
      await this.#ask(this.#chat({ messages: [edited], messageId: message.id }), before);
    });
  }

  /** Another answer in the place of this one. */
  regenerate(message) {
    return this.#act(async () => {
      const before = this.messages;
      this.messages = before.slice(0, this.#at(message));
      const body = { trigger: 'regenerate-message', messageId: message.id, messages: this.messages.slice(-1) };
      await this.#ask(this.#chat(body), before);
    });
  }

  /** Answer a question about a call. */
  decide(message, part, approved) {
    return this.#act(async () => {
      part.state = 'approval-responded';
      part.approval = { id: part.approval.id, approved };
      const body = { messages: [structuredClone(message)], messageId: message.id };
      try {
        await this.#follow(this.#chat(body), message);
      } catch (fault) {
        await this.#load(); // somebody else has decided
        throw fault;
      }
    });
  }

  /** Stop the run; the stream says what comes of it. */
  stop() {
    return wire.fetch(`/api/chat/${this.id}/stop`, { method: 'POST' }).catch(() => {});
  }

  // ---- how

  #at({ id }) {
    return this.messages.findIndex((one) => one.id === id);
  }

  /** One thing at a time: loading, or an answer. */
  async #act(work) {
    if (this.busy) return;
    this.busy = true;
    this.fault = '';
    this.#tell();
    try {
      await work();
    } catch (fault) {
      if (this.#signal.signal.aborted) return;
      this.fault = fault.message;
    }
    this.busy = false;
    const asked = this.messages.at(-1)?.parts.some((part) => part.state === 'approval-requested');
    this.#show({ state: this.live.cursor && (asked ? 'suspended' : this.live.ended || 'failed') });
  }

  #chat(news) {
    return wire.post('/api/chat', { id: this.id, trigger: 'submit-message', ...news }, this.#headers('idempotency-key'));
  }

  #said(message) {
    const { context } = this;
    if (!context || context.remember) return this.#chat({ messages: [message] });
    const path = `/api/agents/${encodeURIComponent(wire.agent)}/${this.id}`;
    return wire.post(path, { message, context: context.value }, this.#headers());
  }

  /** A key makes a request one, however often it is sent; a context that is remembered travels in headers. */
  #headers(key) {
    const said = this.context?.remember ? Object.entries(this.context.value) : [];
    const named = Object.fromEntries(said.map(([name, value]) => [name, String(value)]));
    return { ...named, ...(key && { [key]: fresh() }), 'x-emit-operations': 'true' };
  }

  async #ask(open, before) {
    try {
      await this.#follow(open);
    } catch (fault) {
      if (fault.name === 'Refused') this.messages = before; // it was not taken
      throw fault;
    }
  }

  /** A conversation is listed by what was said first. */
  async #name() {
    const first = this.messages[0]?.parts.find((part) => part.type === 'text')?.text;
    if (this.title || !first) return;
    this.title = first.trim().slice(0, TITLE_CHARS_MAX);
    const headers = { 'content-type': 'application/json' };
    const body = JSON.stringify({ title: this.title });
    const path = `/api/agents/${encodeURIComponent(wire.agent)}/${this.id}`;
    await wire.json(path, { method: 'PATCH', headers, body }).catch(() => (this.title = ''));
  }

  async #stored() {
    const path = `/run/v1/conversations/${this.id}`;
    const [stored, made] = await Promise.all([wire.json(`${path}?limit=200`), wire.json(`${path}/executions`)]);
    return stored && { ...stored, executions: made?.executions ?? [] };
  }

  #take({ messages, title, agentId, executions }) {
    this.messages = messages;
    this.title = title ?? '';
    for (const { id, messageId } of executions) this.runs.set(messageId, id);
    wire.agent = agentId;
    this.#tell();
  }

  /** The stored conversation, and whatever runs, to its end. */
  async #load() {
    for (;;) {
      const stored = await this.#stored();
      if (this.#signal.signal.aborted || !stored) return;
      this.#take(stored);
      const headers = { 'x-emit-operations': 'true' };
      const path = `/run/v1/conversations/${this.id}/stream`;
      const resumed = await this.#follow((signal) => wire.fetch(path, { headers, signal }));
      if (!resumed && !stored.active) return;
      if (resumed) continue;
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS)); // it ended between the two requests
    }
  }

  /** Fold a stream into an answer, through any number of breaks. False: nothing is running. */
  async #follow(open, seed) {
    const before = this.live;
    const own = () => new Fold(seed ? structuredClone(seed) : undefined);
    const { signal } = this.#signal;
    const resume = ({ run, cursor }, both) =>
      wire.fetch(`/api/chat/${run}/stream`, { headers: { 'last-event-id': cursor, 'x-emit-operations': 'true' }, signal: both });
    const answer = new Answer({ open, resume, signal, onState: (news) => this.#show(news) });
    this.live = silent();
    if (!(await answer.begin())) {
      this.live = before;
      this.#tell();
      return false;
    }
    this.#channel.postMessage(this.id);
    const naming = this.#name();
    let fold = own();
    for await (const { restart, cursor, chunk } of answer.events()) {
      if (restart) {
        fold = own();
        this.live = { ...silent(), breaks: this.live.breaks };
        continue;
      }
      fold.take(chunk);
      this.#place(fold.message, answer.run);
      this.#count(cursor, chunk);
    }
    await naming;
    this.#channel.postMessage(this.id);
    return true;
  }

  #place(message, run) {
    if (!message.id) return;
    this.runs.set(message.id, run);
    const at = this.#at(message);
    if (this.messages[at] === message) return;
    const rest = at < 0 ? this.messages : this.messages.filter((_, number) => number !== at);
    this.messages = at < 0 ? [...rest, message] : this.messages.with(at, message);
  }

  /** A cursor ends with the event's number in its run. */
  #count(cursor, chunk) {
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

  #show(news) {
    Object.assign(this.live, news);
    this.#tell();
  }
}
