// The inspector: one run as a timeline, a replay and its stored events; or two runs, compared.

import { compare } from './compare.js';
import { change, once } from './console.js';
import { $, arrange, h, Kept, themeSwitch, write } from './dom.js';
import { Fold } from './fold.js';
import { Messages } from './message.js';
import { stepCalls } from './model_calls.js';
import { paintTimeline, Run } from './run.js';
import { facts, pause } from './timeline.js';
import { duration } from './times.js';
import { wire } from './wire.js';

const RUN = /^(run_[A-Za-z0-9_-]{1,120})$/;
const ROWS_MAX = 2_000;
const REPORTS_MAX = 100;

let run;
let at = 0; // number of events that the message shows
let timer = 0;
const kept = new Kept();
let shownMessage = new Messages();

/** The runs that the address names: `#run_…`, or `?run=run_…`, and `&with=run_…` for two. */
function named() {
  const query = new URLSearchParams(location.search);
  const ids = [location.hash.slice(1) || query.get('run'), query.get('with')];
  return ids.filter((id) => RUN.test(id ?? ''));
}

async function open() {
  stop();
  const [id, other] = named();
  if (!id) {
    location.replace('/runs'); // which run? One of these
    return;
  }
  write($('notice'), '');
  try {
    if (other) await compare([id, other]);
    else await inspect(id);
  } catch (fault) {
    write($('notice'), fault.message);
  }
}

function inspect(id) {
  const mine = (run = new Run(id));
  write($('run'), id);
  document.title = `${id} · Rejoin`;
  return mine.follow(async () => {
    if (!$('whose').textContent) paintOthers(mine);
    refresh();
    if (mine.isBusy) return;
    await paintFeedback(mine);
  });
}

function refresh() {
  const end = at === Number($('place').max) && !timer;
  document.querySelector('.brand').href = `/playground#${encodeURIComponent(run.session)}`;
  write($('whose'), `of ${run.agent}, in session ${run.session}, ${new Date(run.createdAt).toLocaleString()}`);
  arrange($('summary'), facts(run).map(([name, value]) => {
    const made = kept.get(`fact ${name}`, () => h('div', {}, h('dt', { textContent: name }), h('dd')));
    write(made.lastChild, value);
    return made;
  }));
  $('decide').hidden = run.state !== 'suspended';
  $('decide').firstChild.href = `/approvals#run=${run.id}`;
  paintTimeline($('timeline'), run, { choose: (count) => (stop(), show(count)), below });
  paintRaw();
  $('place').max = run.list.length;
  show(end ? run.list.length : at);
}

/** Offer the other runs of the session for a comparison. */
async function paintOthers({ id, session }) {
  const found = await wire.json(`/run/v1/conversations/${encodeURIComponent(session)}/executions`).catch(() => null);
  const others = (found?.executions ?? []).filter((one) => one.id !== id);
  arrange($('others'), others.map((one) => h('option', { value: one.id, label: `${one.state}, ${new Date(one.createdAt).toLocaleString()}` })));
}

// ---- steps

/** What stands below a step: what its model was asked, and a new run from there. */
function below({ kind, step }) {
  if (kind !== 'step') return [];
  const asked = kept.get(`calls ${step}`, () => stepCalls(run.id, step));
  return [kept.get(`step ${step}`, () => h('div', { className: 'again' }, h('button', { className: 'quiet', textContent: 'Replay from here', title: 'Go on from this step again, in a fork of the session. The steps before it stay as they are.', 'aria-label': `Replay from step ${step}`, onclick: once(() => replay(step)) }))), asked];
}

async function replay(step) {
  try {
    const { runId } = await change(`/api/runs/${run.id}/replay`, { step });
    location.assign(`/inspect?run=${runId}`);
  } catch (fault) {
    write($('notice'), fault.message);
  }
}

// ---- the stored events

function paintRaw() {
  const wanted = $('filter').value.trim().toLowerCase();
  const rows = run.list.filter(({ cursor, chunk }) => !wanted || `${cursor} ${JSON.stringify(chunk)}`.toLowerCase().includes(wanted));
  const made = rows.slice(0, ROWS_MAX).map((event) => kept.get(`${run.id} ${event.cursor}`, () => rawRow(event)));
  const more = rows.length > ROWS_MAX ? [h('tr', {}, h('td', { colSpan: 6, textContent: `${rows.length - ROWS_MAX} more: filter them` }))] : [];
  arrange($('raw').tBodies[0], [...made, ...more]);
}

function rawRow({ cursor, at: time, sequence, attempt, audience, mark, chunk, number }) {
  const { type, ...rest } = chunk;
  const notes = [audience === 'all' ? '' : audience, mark === '-' ? '' : mark].filter(Boolean).join(', ');
  const cells = [type, JSON.stringify(rest), duration(time), attempt, notes ? `${sequence} ${notes}` : sequence, cursor];
  return h('tr', { onclick: () => (stop(), show(number + 1)) }, ...cells.map((cell) => h('td', { textContent: String(cell) })));
}

// ---- feedback and client events

/** Show what people think of this answer, and what clients report of its session, the newest first. */
async function paintFeedback({ session, answer }) {
  const query = `conversationId=${encodeURIComponent(session)}&limit=${REPORTS_MAX}`;
  const [given, reported] = await Promise.all(['feedback', 'events'].map((kind) => wire.json(`/run/v1/${kind}?${query}`)));
  const entries = (given?.data ?? []).map(({ type, details, messageId, createdAt }) => {
    const about = messageId === answer ? 'this answer' : messageId ? 'another message' : 'the session';
    return report(type, `${about}${details ? `: ${details}` : ''}`, createdAt);
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
  at = Math.min(count, run.list.length);
  const fold = new Fold({ id: run.id, role: 'assistant', parts: [] });
  for (const { chunk } of run.list.slice(0, at)) fold.add(chunk);
  if (at === run.list.length) run.answers.forEach((chunk) => fold.add(chunk));
  fold.message.id = run.id;
  arrange($('message'), [shownMessage.article(fold.message, { busy: at < run.list.length })]);
  $('place').value = at;
  const last = run.list[at - 1];
  write($('shown'), last ? `event ${at} of ${run.list.length}, after ${duration(last.at)}` : `before the first of ${run.list.length}`);
  $('raw').querySelector('[aria-current]')?.removeAttribute('aria-current');
  if (last) kept.get(`${run.id} ${last.cursor}`, () => rawRow(last)).setAttribute('aria-current', 'true');
}

function play() {
  if (at >= run.list.length) show(0);
  const next = () => {
    show(at + 1);
    if (at >= run.list.length) return stop();
    timer = setTimeout(next, pause(run.list, at) / Number($('speed').value));
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
$('compare').onsubmit = (event) => {
  event.preventDefault();
  const other = $('other').value.trim();
  if (RUN.test(other)) location.assign(`/inspect?run=${run.id}&with=${other}`);
  else write($('notice'), 'Which run? Its id begins with run_.');
};
addEventListener('hashchange', () => location.reload());
themeSwitch($('theme'));
open();
