// The overview: what runs and waits now, the runs of a window of time, errors, and the processes.

import { bars, COLORS } from './chart.js';
import { filters, watch } from './console.js';
import { $, arrange, h, Kept, write } from './dom.js';
import { duration, money, shortTime } from './times.js';
import { wire } from './wire.js';

const LOOK_MS = 5_000;
const LONG_WAIT_S = 30;
const LAG_S_HIGH = 0.1;
const HOURS = { '1h': 1, '24h': 24, '7d': 168 }; // of each window, as the list of runs has them
const STATES = ['completed', 'suspended', 'failed', 'cancelled', 'running', 'queued']; // in the order of the colors
const USAGE_MS = 60_000;
const MIB = 1024 * 1024;

const kept = new Kept();
const kinds = new Kept(); // of errors, and their codes
const rows = new Kept(); // of processes

async function load() {
  const found = await wire.json(`/api/overview?${query()}`);
  await loadUsage();
  paintNow(found);
  paintCharts(found);
  paintErrors(found);
  paintProcesses(found.processes);
}

const count = (number) => number.toLocaleString();
const sum = (list, of) => list.reduce((total, one) => total + of(one), 0);
const windowHours = () => HOURS[query().get('window') ?? '24h'];
const seconds = (value) => (value === undefined ? '–' : duration(value * 1000));

// ---- now

const inState = ({ unfinished }, state) => sum(unfinished.filter((one) => one.state === state), ({ runs }) => runs);
const oldest = ({ unfinished }, state) => Math.max(0, ...unfinished.filter((one) => one.state === state).map(({ longestS }) => longestS));

function paintNow(found) {
  const { processes, queueWaitS, firstEventS, periods, takeovers } = found;
  const failed = sum(periods.filter(({ state }) => state === 'failed'), ({ runs }) => runs);
  const since = (state, words) => (inState(found, state) ? `${words} ${duration(oldest(found, state) * 1000)}` : '');
  const link = (state, number, since = '') => h('a', { href: `/runs#state=${state}${since}`, textContent: count(number) });
  const runners = processes.filter(({ kind }) => kind === 'runner');
  const tiles = [
    ['Queued', link('queued', inState(found, 'queued')), since('queued', 'the oldest for'), oldest(found, 'queued') > LONG_WAIT_S],
    ['Running', link('running', inState(found, 'running')), since('running', 'the longest for')],
    ['Waiting for somebody', h('a', { href: '/approvals', textContent: count(inState(found, 'suspended')) }), since('suspended', 'the oldest for')],
    ['Failed in this window', link('failed', failed, `&since=${windowHours()}`), `of ${count(found.counted)} runs`, failed > 0],
    ['Taken over in this window', count(sum(takeovers, ({ attempts }) => attempts)), takeovers.map(({ cause, attempts }) => `${cause} ${attempts}`).join(', ')],
    ['Median wait for a runner', seconds(queueWaitS.p50), `95 %: ${seconds(queueWaitS.p95)}`],
    ['Median time to the first event', firstEventS.p50 === undefined ? '–' : `≤ ${seconds(firstEventS.p50)}`, firstEventS.p95 === undefined ? 'last 5 minutes, all tenants' : `95 %: ≤ ${seconds(firstEventS.p95)}; last 5 minutes, all tenants`],
    ['Runners', count(runners.length), `${count(sum(runners, ({ load }) => load))} of ${count(sum(runners, ({ loadMax = 0 }) => loadMax))} places taken`, !runners.length],
  ];
  arrange($('now'), tiles.map(([name, value, note, isAlarm]) => {
    const made = kept.get(`tile ${name}`, () => h('div', {}, h('dt', { textContent: name }), h('dd'), h('dd', { className: 'small' })));
    made.classList.toggle('alarm', Boolean(isAlarm));
    const [, shown, below] = made.children;
    if (typeof value === 'string') write(shown, value);
    else if (shown.firstElementChild?.href !== value.href || shown.textContent !== value.textContent) arrange(shown, [value]);
    write(below, note);
    return made;
  }));
}

// ---- over time

/** The periods of the window, also those without runs: `{ label, rows }`. */
function periodsOf({ since, at, periodS, periods }) {
  const width = periodS * 1000;
  const found = new Map();
  for (const one of periods) found.set(Date.parse(one.start), [...(found.get(Date.parse(one.start)) ?? []), one]);
  const zero = Date.UTC(2000, 0, 3); // the periods are counted from there
  const first = zero + Math.floor((Date.parse(since) - zero) / width) * width;
  const starts = [];
  for (let start = first; start <= Date.parse(at); start += width) starts.push(start);
  return starts.map((start) => ({ label: shortTime(new Date(start).toISOString()), rows: found.get(start) ?? [] }));
}

/** The agents with the most of something; all others are one. */
function agentsOf(periods, of) {
  const totals = new Map();
  for (const one of periods) totals.set(one.agentId, (totals.get(one.agentId) ?? 0) + of(one));
  const names = [...totals].filter(([, total]) => total).sort(([, one], [, other]) => other - one).map(([name]) => name);
  return names.length > COLORS ? [...names.slice(0, COLORS - 1), 'others'] : names;
}

const tokens = ({ inputTokens, outputTokens }) => inputTokens + outputTokens;

function paintCharts(found) {
  const { periods } = found;
  const columns = periodsOf(found);
  $('none').hidden = periods.length > 0;
  const byState = { title: 'Runs by state', names: STATES, columns: columns.map(({ label, rows }) => ({ label, values: STATES.map((state) => sum(rows.filter((one) => one.state === state), ({ runs }) => runs)) })), format: count };
  const agents = agentsOf(periods, tokens);
  const isOf = (name) => (one) => (name === 'others' ? !agents.includes(one.agentId) : one.agentId === name);
  const byAgent = { title: 'Tokens by agent', names: agents, columns: columns.map(({ label, rows }) => ({ label, values: agents.map((name) => sum(rows.filter(isOf(name)), tokens)) })), format: count };
  const charts = [
    ...(periods.length ? [chart('runs', byState)] : []),
    ...(agents.length ? [chart('tokens', byAgent)] : []),
    ...usage.map(usageChart),
  ];
  arrange($('charts'), charts);
}

// ---- money, or tokens where no model has a price

let usage = []; // [title, report, key] of the last 30 days
let usageAt = 0;

async function loadUsage() {
  if (Date.now() - usageAt < USAGE_MS) return;
  usageAt = Date.now();
  const kinds = ['agent', 'model'];
  const reports = await Promise.all(kinds.map((key) => wire.json(`/api/usage?by=day,${key}`))); // null for a key of one user
  usage = kinds.flatMap((key, at) => (reports[at]?.usage.length ? [{ key, ...reports[at] }] : []));
}

function usageChart({ key, since, until, usage: sums }) {
  const isPriced = sums.some((one) => one.costUsd !== null);
  const of = isPriced ? (one) => one.costUsd ?? 0 : (one) => one.inputTokens + one.outputTokens;
  const named = sums.map((one) => ({ ...one, agentId: one[key] || 'unknown' }));
  const names = agentsOf(named, of);
  const isOf = (name) => (one) => (name === 'others' ? !names.includes(one.agentId) : one.agentId === name);
  const days = [];
  for (let day = Date.parse(since); day <= Date.parse(until); day += 86_400_000) days.push(new Date(day).toISOString().slice(0, 10));
  const columns = days.map((day) => ({ label: day, values: names.map((name) => sum(named.filter((one) => one.day === day).filter(isOf(name)), of)) }));
  const title = `${isPriced ? 'Cost' : 'Tokens'} by day and ${key}`;
  return chart(`usage ${key}`, { title, names, columns, format: isPriced ? money : count });
}

const drawn = new Map(); // what each chart shows, and its element: open figures stay open while nothing changes

function chart(key, data) {
  const text = JSON.stringify(data);
  const known = drawn.get(key);
  if (known?.text === text) return known.element;
  const element = bars(data);
  element.querySelector('details').open = known?.element.querySelector('details').open ?? false;
  drawn.set(key, { text, element });
  return element;
}

// ---- errors and processes

/** The codes of errors, each with the texts that its runs failed with. */
function paintErrors({ errorCodes, errors }) {
  const line = (key, name, runs, lastRun) => {
    const made = kinds.get(key, () => h('li', {}, h('strong'), name(), h('a', { textContent: 'Inspect the last one' })));
    write(made.firstChild, `${count(runs)} ×`);
    made.lastChild.href = `/inspect#${lastRun}`;
    return made;
  };
  const lines = errorCodes.flatMap(({ code, runs, lastRun }) => {
    const head = line(code, () => h('span', {}, h('a', { className: 'code', textContent: code })), runs, lastRun);
    head.querySelector('.code').href = `/runs#${new URLSearchParams({ state: 'failed', error: code, since: windowHours() })}`;
    const texts = errors.filter((one) => one.code === code).map((one) => {
      const made = line(`${code} ${one.error}`, () => h('span', { className: 'fault-text', textContent: one.error }), one.runs, one.lastRun);
      made.className = 'text';
      return made;
    });
    return [head, ...texts];
  });
  arrange($('errors'), lines);
  kinds.retain(new Set([...errorCodes.map(({ code }) => code), ...errors.map(({ code, error }) => `${code} ${error}`)]));
  $('no-errors').hidden = errorCodes.length > 0;
}

const keyOf = ({ kind, id, startedAt }) => `${kind} ${id} ${startedAt}`;

function paintProcesses(processes) {
  arrange($('processes').tBodies[0], processes.map((one) => {
    const made = rows.get(keyOf(one), () => h('tr', {}, ...Array.from({ length: 7 }, () => h('td'))));
    const full = one.loadMax === undefined ? `${one.load} streams` : `${one.load} of ${one.loadMax} runs`;
    const notes = [one.overload && `overloaded: ${one.overload}`, one.draining && 'draining'].filter(Boolean).join(', ');
    const cells = [`${one.kind} ${one.id}`, one.version, [full, notes].filter(Boolean).join(', '), `${(one.lagS * 1000).toFixed(1)} ms`, `${Math.round(one.memoryBytes / MIB)} MiB`, duration(Date.now() - Date.parse(one.startedAt)), (one.agents ?? []).join(', ')];
    cells.forEach((text, at) => write(made.cells[at], text));
    made.cells[2].classList.toggle('fault-text', Boolean(one.overload));
    made.cells[3].classList.toggle('fault-text', one.lagS > LAG_S_HIGH);
    return made;
  }));
  rows.retain(new Set(processes.map(keyOf)));
  $('no-runners').hidden = processes.some(({ kind }) => kind === 'runner');
}

const query = filters($('filters'), () => look());
const look = watch(load, LOOK_MS);
