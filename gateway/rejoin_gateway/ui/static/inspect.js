// The inspector: reads one run's log page by page and follows it while the run is active.

import { $, arrange, h, Kept, themeSwitch, write } from './dom.js';
import { Fold } from './fold.js';
import { Messages } from './message.js';
import { duration, events, facts, lines, pause, scale } from './timeline.js';
import { wire } from './wire.js';

const RUN = /^#(run_[A-Za-z0-9_-]{1,120})$/;
const LOOK_MS = 1_000;
const ROWS_MAX = 2_000;
const REPORTS_MAX = 100;
const BUSY = ['queued', 'running'];
const OVER = ['completed', 'failed', 'cancelled'];

class Run {
  records = [];
  answers = []; // what was answered while the run waits for more: the log has it later
  state = '';
  #after = 0;

  constructor(id) {
    this.id = id;
  }

  /** Read new records; false if there are none. */
  async read() {
    for (let news = false; ; news = true) {
      const page = await wire.json(`/run/api/executions/${this.id}/log?after=${this.#after}`);
      if (!page) throw new Error(`There is no run ${this.id}, or it is not yours.`);
      const { answers = [] } = page;
      const changed = page.state !== this.state || page.records.length > 0 || answers.length !== this.answers.length;
      Object.assign(this, { answers, state: page.state, createdAt: page.createdAt, session: page.conversationId, agent: page.agentId, answer: page.messageId });
      this.records.push(...page.records);
      this.#after = page.records.at(-1)?.sequence ?? this.#after;
      if (!page.next) return news || changed;
    }
  }
}

let run;
let list = [];
let at = 0; // number of events that the message shows
let timer = 0;
const kept = new Kept();
let shownMessage = new Messages();

async function open() {
  stop();
  const id = RUN.exec(location.hash)?.[1];
  if (!id) {
    location.replace('/runs'); // which run? One of these
    return;
  }
  const mine = (run = new Run(id));
  write($('notice'), '');
  write($('run'), id);
  document.title = `${id} · Rejoin`;
  try {
    for (;;) {
      const end = at === list.length && !timer;
      if (await mine.read()) {
        refresh(end);
        if (!BUSY.includes(mine.state)) await paintFeedback(mine);
      }
      if (OVER.includes(mine.state)) return;
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      if (run !== mine) return;
    }
  } catch (fault) {
    if (run === mine) write($('notice'), fault.message);
  }
}

function refresh(end) {
  list = events(run.records, run.createdAt);
  $('back').href = `/#${encodeURIComponent(run.session)}`;
  write($('whose'), `of ${run.agent}, in conversation ${run.session}, ${new Date(run.createdAt).toLocaleString()}`);
  arrange($('summary'), facts(list, run.records, run.state).map(([name, value]) => {
    const made = kept.get(`fact ${name}`, () => h('div', {}, h('dt', { textContent: name }), h('dd')));
    write(made.lastChild, value);
    return made;
  }));
  paintTimeline();
  paintRaw();
  $('place').max = list.length;
  show(end ? list.length : at);
}

// ---- the timeline

const SVG = 'http://www.w3.org/2000/svg';

function bar(from, to) {
  const svg = document.createElementNS(SVG, 'svg');
  const rect = document.createElementNS(SVG, 'rect');
  const width = Math.max((to - from) * 100, 0.8);
  const place = { x: `${Math.min(from * 100, 99.2)}%`, y: '15%', width: `${width}%`, height: '70%' };
  for (const [name, value] of Object.entries(place)) rect.setAttribute(name, value);
  svg.append(rect);
  svg.setAttribute('aria-hidden', 'true');
  return svg;
}

function paintTimeline() {
  const drawn = scale(list);
  const last = list.at(-1);
  const answered = run.answers.map((chunk) => ({ ...last, chunk }));
  arrange($('timeline'), lines([...list, ...answered], run.records, run.createdAt).map((line) => {
    const label = h('span', { className: 'label', textContent: line.label });
    const detail = h('span', { className: 'detail', textContent: line.detail, title: line.detail });
    const span = h('span', { className: 'span', textContent: line.to > line.from ? duration(line.to - line.from) : `at ${duration(line.from)}` });
    const track = h('span', { className: 'track' }, bar(drawn(line.from), drawn(line.to)));
    const row = h('button', { onclick: () => (stop(), show(line.last + 1)) }, label, detail, track, span);
    const kind = line.kind === 'tool' ? 'tool-line' : line.kind;
    return h('li', { className: `${kind}${line.void ? ' void' : ''}` }, row);
  }));
}

// ---- the stored events

function paintRaw() {
  const wanted = $('filter').value.trim().toLowerCase();
  const rows = list.filter(({ cursor, chunk }) => !wanted || `${cursor} ${JSON.stringify(chunk)}`.toLowerCase().includes(wanted));
  const made = rows.slice(0, ROWS_MAX).map((event) => kept.get(`${run.id} ${event.cursor}`, () => rawRow(event)));
  const more = rows.length > ROWS_MAX ? [h('tr', {}, h('td', { colSpan: 6, textContent: `${rows.length - ROWS_MAX} more: filter them` }))] : [];
  arrange($('raw').tBodies[0], [...made, ...more]);
}

function rawRow({ cursor, at: time, sequence, attempt, audience, mark, chunk, number }) {
  const { type, ...rest } = chunk;
  const notes = [audience === 'all' ? '' : audience, mark === '-' ? '' : mark].filter(Boolean).join(', ');
  const cells = [cursor, duration(time), notes ? `${sequence} ${notes}` : sequence, attempt, type, JSON.stringify(rest)];
  return h('tr', { onclick: () => (stop(), show(number + 1)) }, ...cells.map((cell) => h('td', { textContent: String(cell) })));
}

// ---- feedback and client events

/** Show what people think of this answer, and what clients report of its conversation, the newest first. */
async function paintFeedback({ session, answer }) {
  const query = `conversationId=${encodeURIComponent(session)}&limit=${REPORTS_MAX}`;
  const [given, reported] = await Promise.all(['feedback', 'events'].map((kind) => wire.json(`/run/v1/${kind}?${query}`)));
  const entries = (given?.data ?? []).map(({ type, details, messageId, createdAt }) => {
    const about = messageId === answer ? 'this answer' : messageId ? 'another message' : 'the conversation';
    return report(type === 'positive' ? '👍' : '👎', `${about}${details ? `: ${details}` : ''}`, createdAt);
  });
  const events = (reported?.data ?? []).map(({ type, metadata, messageId, createdAt }) =>
    report(type, messageId === answer ? 'this answer' : '', createdAt, JSON.stringify(metadata ?? {})));
  arrange($('given'), entries);
  arrange($('reported'), events);
  $('feedback').hidden = !entries.length && !events.length;
}

function report(name, text, time, title = '') {
  const said = h('span', { textContent: text ? `${name} ${text}` : name });
  return h('li', { title }, said, ' ', h('span', { className: 'small', textContent: new Date(time).toLocaleString() }));
}

// ---- the replay

/** Show the message as it was after that many events. */
function show(count) {
  if (count < at) shownMessage = new Messages();
  at = Math.min(count, list.length);
  const fold = new Fold({ id: run.id, role: 'assistant', parts: [] });
  for (const { chunk } of list.slice(0, at)) fold.add(chunk);
  if (at === list.length) run.answers.forEach((chunk) => fold.add(chunk));
  fold.message.id = run.id;
  arrange($('message'), [shownMessage.article(fold.message, { busy: at < list.length })]);
  $('place').value = at;
  const last = list[at - 1];
  write($('shown'), last ? `event ${at} of ${list.length}, after ${duration(last.at)}` : `before the first of ${list.length}`);
  $('raw').querySelector('[aria-current]')?.removeAttribute('aria-current');
  if (last) kept.get(`${run.id} ${last.cursor}`, () => rawRow(last)).setAttribute('aria-current', 'true');
}

function play() {
  if (at >= list.length) show(0);
  const next = () => {
    show(at + 1);
    if (at >= list.length) return stop();
    timer = setTimeout(next, pause(list, at) / Number($('speed').value));
  };
  write($('play'), 'Pause');
  timer = setTimeout(next, 0);
}

function stop() {
  clearTimeout(timer);
  timer = 0;
  write($('play'), 'Play');
}

$('play').onclick = () => (timer ? stop() : play());
$('place').oninput = () => (stop(), show(Number($('place').value)));
$('filter').oninput = paintRaw;
addEventListener('hashchange', () => location.reload());
themeSwitch($('theme'));
open();
