// A run's log as a timeline: what happened when, for how long, and in which attempt. Pure.

import { duration, money } from './times.js';

const GAP_MS = 1_000; // shorter pauses are not shown
const WAIT_MS_MAX = 3_000; // longer pauses are drawn with this length

const NOBODY = 'Nobody decided in time.'; // the text that runners write
const ANONYMOUS = 'anybody'; // the name that gateways give a caller without a credential
const VOIDED = ['text', 'reasoning', 'tool', 'approval'];

const ms = (time) => (time ? Date.parse(time.replace(/(\.\d{3})\d+/, '$1')) : Number.NaN);

/** Every event of the records, `{ cursor, chunk, at, attempt, sequence, mark, audience, number }`; `at` in ms since the run was created. */
export function events(records, createdAt) {
  const zero = ms(createdAt);
  return records.flatMap(({ sequence, attempt, audience, mark, time, events: entries }) =>
    entries.map(({ cursor, chunk }) => ({ sequence, attempt, audience, mark, cursor, chunk, at: Math.max(ms(time) - zero, 0) })),
  ).map((event, number) => ({ ...event, number }));
}

/** Lines `{ kind, label, detail, from, to, first, last, step? }` in the order of their start. `decisions`: approval → who. */
export function lines(list, records, createdAt, decisions = new Map()) {
  const found = [];
  const open = new Map();
  const begin = (key, line, event) => {
    const made = { detail: '', ...line, from: event.at, to: event.at, first: event.number, last: event.number };
    open.set(key, made);
    found.push(made);
    return made;
  };
  let step = 0;
  let spent = {};
  let previous;
  let isGiven = false; // the log began with a message from elsewhere: with kept steps, or after it had expired
  for (const event of list) {
    if (previous) between(previous, event, found);
    isGiven ||= event.mark === 'restored';
    const { chunk } = event;
    const part = /^(text|reasoning)-(start|delta|end)$/.exec(chunk.type);
    if (part) speak(part, event, open, begin);
    else if (chunk.toolCallId ?? chunk.approvalId) call(event, open, begin, decisions);
    else if (chunk.type === 'start-step') begin('step', { kind: 'step', step: (step += 1), label: `Step ${step}` }, event);
    else if (chunk.type === 'finish-step') extend(open.get('step'), event);
    else if (chunk.type === 'message-metadata') spent = spend(open.get('step'), chunk.messageMetadata?.usage, spent);
    else if (chunk.type === 'reset-step') {
      const { first = 0 } = open.get('step') ?? {};
      for (const line of found) if (line.first >= first && VOIDED.includes(line.kind)) line.void = true;
      begin('reset', { kind: 'reset', label: 'Step taken back', detail: `attempt ${event.attempt} does it again` }, event);
    } else if (chunk.type === 'error') begin('error', { kind: 'error', label: 'Error', detail: chunk.errorText }, event);
    else if (chunk.type === 'abort') begin('abort', { kind: 'error', label: 'Interrupted', detail: chunk.reason ?? '' }, event);
    else if (chunk.type === 'finish' && isGiven) {
      begin('finish', { kind: 'mark', label: 'Given to here', detail: 'kept from another run, or from before the log expired' }, event);
      isGiven = false;
    } else if (chunk.type === 'finish') begin('finish', { kind: 'mark', label: event.mark === 'suspended' ? 'Suspended' : 'Finished', detail: chunk.finishReason ?? '' }, event);
    previous = event;
  }
  return [...found, ...claims(list, records, createdAt)].sort((one, other) => one.from - other.from || one.first - other.first);
}

/** The attempts: the first one, continuations after a decision, and takeovers after a runner died. */
function claims(list, records, createdAt) {
  return records.flatMap(({ attempt, sequence, time }, number) => {
    const before = records[number - 1];
    if (before?.attempt === attempt) return [];
    const at = Math.max(ms(time) - ms(createdAt), 0);
    const first = Math.max(list.findIndex((event) => event.sequence >= sequence), 0);
    const line = { label: `Attempt ${attempt}`, from: at, to: at, first, last: first };
    if (!before) return [{ ...line, kind: 'mark', detail: 'a runner began' }];
    if (before.mark === 'suspended') return [{ ...line, kind: 'mark', detail: 'a runner went on after the decision' }];
    return [{ ...line, kind: 'attempt', detail: `taken over from attempt ${before.attempt}` }];
  });
}

/** Long pauses between two events, and every pause of a takeover. */
function between(previous, event, found) {
  const span = { first: event.number, last: event.number };
  const suspended = previous.mark === 'suspended';
  if (event.at - previous.at > GAP_MS || (event.attempt !== previous.attempt && !suspended)) {
    const waited = suspended ? 'Waited for a decision' : 'Silence';
    found.push({ kind: 'gap', label: waited, detail: duration(event.at - previous.at), from: previous.at, to: event.at, ...span });
  }
}

/** The tokens and the cost of each step. The log holds the running total. */
function spend(line, usage, before) {
  if (!line || !usage) return before;
  const own = (name) => (usage[name] ?? 0) - (before[name] ?? 0);
  const cost = usage.costUsd === undefined ? '' : `, ${money(own('costUsd'))}`;
  line.detail = `${own('inputTokens')} tokens in, ${own('outputTokens')} out${cost}`;
  return usage;
}

function extend(line, event) {
  if (line) Object.assign(line, { to: event.at, last: event.number });
  return line;
}

function speak([, kind, what], event, open, begin) {
  const key = `${kind} ${event.chunk.id}`;
  if (what === 'start') begin(key, { kind, label: kind === 'text' ? 'Text' : 'Reasoning' }, event);
  const line = extend(open.get(key), event);
  if (line && what === 'delta') line.detail += event.chunk.delta;
}

function decided({ approved, reason, isAutomatic }, by = ANONYMOUS) {
  if (reason === NOBODY) return 'denied: nobody decided in time';
  const who = isAutomatic ? 'by rule' : `by ${by === ANONYMOUS ? 'a person' : by}`;
  return `${approved ? 'approved' : 'denied'} ${who}${reason ? `: ${reason}` : ''}`;
}

function call(event, open, begin, decisions) {
  const { chunk } = event;
  const id = chunk.toolCallId ?? open.get(`approval ${chunk.approvalId}`)?.call;
  if (chunk.type === 'tool-input-start' || (chunk.toolName && !open.has(`call ${id}`))) {
    begin(`call ${id}`, { kind: 'tool', label: chunk.toolName }, event);
  }
  const line = extend(open.get(`call ${id}`), event);
  if (chunk.type === 'tool-approval-request') {
    begin(`approval ${chunk.approvalId}`, { kind: 'approval', label: 'Asked for approval', detail: 'nobody has decided yet', call: id }, event);
  } else if (chunk.type === 'tool-approval-response') {
    const asked = extend(open.get(`approval ${chunk.approvalId}`), event);
    const edited = open.get(`call ${id}`)?.edit ? ', with changed arguments' : '';
    if (asked) asked.detail = `${decided(chunk, decisions.get(chunk.approvalId)?.by)}${edited}`;
  }
  if (!line) return;
  if ('input' in chunk) {
    line.edit = chunk.providerMetadata?.rejoin?.edit;
    line.detail = `${JSON.stringify(chunk.input)}${line.edit ? ` in place of ${JSON.stringify(line.edit.shownInput)}` : ''}`;
  }
  if ('output' in chunk) line.detail += ` → ${JSON.stringify(chunk.output)}`;
  if (chunk.type === 'tool-output-denied') line.detail += ' → denied';
  if ('errorText' in chunk) line.detail += ` → ${chunk.errorText}`;
}

function stopsOf(list) {
  const stops = [{ at: 0, drawn: 0 }];
  for (const { at } of list) {
    const last = stops.at(-1);
    if (at > last.at) stops.push({ at, drawn: last.drawn + Math.min(at - last.at, WAIT_MS_MAX) });
  }
  return stops;
}

/** The length of a timeline in ms, with long pauses shortened. */
export const drawnLength = (list) => stopsOf(list).at(-1).drawn || 1;

/** A scale that shortens long pauses: ms since the start → 0 … 1, where 1 is the length `whole`. */
export function scale(list, whole = drawnLength(list)) {
  const stops = stopsOf(list);
  const end = stops.at(-1).drawn / whole;
  return (at) => {
    const next = stops.findIndex((stop) => stop.at >= at);
    if (next <= 0) return next < 0 ? end : 0;
    const [before, after] = [stops[next - 1], stops[next]];
    return (before.drawn + ((at - before.at) / (after.at - before.at)) * (after.drawn - before.drawn)) / whole;
  };
}

/** The pause before an event in a replay, in ms. */
export const pause = (list, number) => (number ? Math.min(list[number].at - list[number - 1].at, WAIT_MS_MAX) : 0);

/** The key figures of a run: `[name, value]`. */
export function facts({ list, records, state, errorCode }) {
  const usage = list.reduce((found, { chunk }) => chunk.messageMetadata?.usage ?? found, {});
  const text = list.find(({ chunk }) => chunk.type === 'text-delta' || chunk.type === 'reasoning-delta');
  const resets = list.filter(({ chunk }) => chunk.type === 'reset-step').length;
  const attempts = new Set(records.map(({ attempt }) => attempt)).size;
  const tokens = [usage.inputTokens, usage.outputTokens].map((count) => count ?? 0);
  return [
    ['State', state],
    ...(errorCode ? [['Error', errorCode]] : []),
    ['To the first event', list.length ? duration(list[0].at) : '–'],
    ['To the first word', text ? duration(text.at) : '–'],
    ['Duration', list.length ? duration(list.at(-1).at) : '–'],
    ['Tokens', `${tokens[0]} in, ${tokens[1]} out`],
    ...(usage.costUsd === undefined ? [] : [['Cost', money(usage.costUsd)]]),
    ...(usage.models ? [['Model', Object.keys(usage.models).join(', ')]] : []),
    ['Events', String(list.length)],
    ['Attempts', resets ? `${attempts}, ${resets} taken back` : String(attempts)],
  ];
}
