// The runs of a tenant: a list with filters that stay in the address, and what can be done with a run.

import { refusal } from './answer.js';
import { actions, addAgents, change, filters, once, refusals, sessionLink, time, watch } from './console.js';
import { $, arrange, h, Kept, save, write } from './dom.js';
import { RunPages } from './run_pages.js';
import { duration, money } from './times.js';
import { wire } from './wire.js';

const WAITING_MAX = 100;
const EXPORTED_MAX = 2_000;
const EXPORT_PAGE = 200;
const BUSY = ['queued', 'running', 'suspended'];

const kept = new Kept();
const refuse = refusals($('refusals'));
let list = new RunPages(ask);
let asked = ''; // the filters of what is listed

// ---- the list

function ask(more) {
  const wanted = query();
  wanted.delete('group');
  for (const [name, value] of Object.entries(more)) wanted.set(name, value);
  return wire.json(`/api/runs?${wanted}`);
}

async function load() {
  if (asked !== location.hash) {
    asked = location.hash;
    list = new RunPages(ask);
  }
  await list.refresh();
  paint();
  paintWaiting(await wire.json(`/api/approvals?kind=approval&limit=${WAITING_MAX}`));
}

function paint() {
  const { runs } = list;
  const grouped = query().get('group') ? bySession(runs) : runs.map((run) => row(run));
  arrange($('runs').tBodies[0], grouped);
  kept.retain(new Set(runs.flatMap(({ id, sessionId }) => [id, ...NAMES.map((name) => `${id} ${name}`), `session ${sessionId}`])));
  $('more').hidden = !list.more;
  $('export').hidden = !runs.length;
  const filtered = ['state', 'error', 'agent', 'user', 'session', 'since'].some((name) => query().get(name));
  write($('none'), filtered ? 'No run has all of this. Empty the filters to see all runs.' : 'There are no runs yet. Send a message in the playground.');
  $('none').hidden = runs.length > 0;
}

/** The rows below a line for each session, the session with the newest run first. */
function bySession(runs) {
  return [...Map.groupBy(runs, ({ sessionId }) => sessionId)].flatMap(([session, of]) => {
    const made = kept.get(`session ${session}`, () => h('tr', { className: 'group' }, h('th', { colSpan: 12, scope: 'rowgroup' }, sessionLink(of[0].agentId, session), h('span', { className: 'small' }))));
    const tokens = of.reduce((total, { usage }) => total + usage.inputTokens + usage.outputTokens, 0);
    const costs = of.map(({ costUsd: cost }) => cost).filter((cost) => cost != null);
    const cost = costs.length ? `, ${money(costs.reduce((total, one) => total + one, 0))}` : '';
    write(made.querySelector('span'), ` ${of.length} ${of.length === 1 ? 'run' : 'runs'} here, ${tokens.toLocaleString()} tokens${cost}`);
    return [made, ...of.map((run) => row(run))];
  });
}

function row(run) {
  const made = kept.get(run.id, () =>
    h('tr', {},
      h('td', {}, h('span'), h('span', { className: 'cause' })),
      h('td', {}, h('a', { href: `/inspect#${run.id}`, title: run.id }, h('code', { textContent: `…${run.id.slice(-8)}` }))),
      h('td', { textContent: run.agentId }),
      h('td', { className: 'name' }, sessionLink(run.agentId, run.sessionId)),
      h('td', { className: 'name', textContent: run.userId ?? '', title: run.userId ?? '' }),
      h('td', {}, time(run.createdAt)),
      h('td'), h('td'), h('td'), h('td'), h('td'), h('td', { className: 'actions' })));
  const [state, , , , , , waited, took, tokens, cost, attempts, actions] = made.cells;
  const [name, cause] = state.children;
  name.className = `state ${run.state}`;
  write(name, run.state);
  write(cause, [run.errorCode, run.error].filter(Boolean).join(': '));
  const begun = run.startedAt && Date.parse(run.startedAt);
  write(waited, duration((begun || Date.now()) - Date.parse(run.createdAt)));
  write(took, begun ? duration((run.endedAt ? Date.parse(run.endedAt) : Date.now()) - begun) : '');
  write(tokens, `${run.usage.inputTokens} in, ${run.usage.outputTokens} out`);
  write(cost, run.costUsd == null ? '' : money(run.costUsd));
  write(attempts, String(run.attempts));
  arrange(actions, actionsOf(run));
  return made;
}

// ---- what can be done with a run

const NAMES = ['Decide', 'Interrupt', 'Retry', 'Replay'];

function actionsOf(run) {
  const button = (name, title, work) => kept.get(`${run.id} ${name}`, () =>
    h('button', { textContent: name, title, 'aria-label': `${name} ${run.id}`, onclick: once(() => act(work)) }));
  if (BUSY.includes(run.state)) {
    const decide = kept.get(`${run.id} Decide`, () => h('a', { href: `/approvals#run=${run.id}`, textContent: 'Decide', 'aria-label': `Decide ${run.id}` }));
    const stop = button('Interrupt', 'End this run', () => change(`/run/api/executions/${run.id}/interrupt`));
    return run.state === 'suspended' ? [decide, stop] : [stop];
  }
  const again = button('Replay', 'Answer its message again, in a fork of the session', () => change(`/api/runs/${run.id}/replay`).then(({ sessionId }) => {
    location.href = `/sessions#session=${encodeURIComponent(sessionId)}&of=${encodeURIComponent(run.agentId)}`;
  }));
  if (run.state === 'completed') return [again];
  return [button('Retry', 'Answer the same message again, in this session', () => retry(run)), again];
}

/** Answer the last message of a session again, in its place. The answers of other messages would be lost: those are refused. */
async function retry({ agentId, sessionId, messageId }) {
  const history = await wire.json(`/api/agents/${encodeURIComponent(agentId)}/${encodeURIComponent(sessionId)}`);
  const messages = history?.messages ?? [];
  const last = messages.at(-1);
  if (!last || (last.id !== messageId && last.role !== 'user')) throw new Error('Messages follow it, which a retry would delete: replay it instead.');
  const body = { id: sessionId, trigger: 'regenerate-message', messages: [last], ...(last.id === messageId && { messageId }) };
  const response = await wire.post('/api/chat', body, { 'x-agent-id': agentId })();
  if (!response.ok) throw await refusal(response);
  response.body?.cancel();
}

/** Save the runs that the filters name, the newest ones. */
async function exportRuns() {
  const runs = [];
  for (let before = ''; runs.length < EXPORTED_MAX; ) {
    const page = await ask({ limit: EXPORT_PAGE, ...(before && { before }) });
    runs.push(...page.runs);
    before = page.next;
    if (!before) break;
  }
  const file = new Blob([JSON.stringify({ filters: Object.fromEntries(query()), runs }, null, 2)], { type: 'application/json' });
  save(file, 'runs.json');
}

/** How many calls wait for a decision; the inbox has them. */
function paintWaiting({ calls, next }) {
  $('waiting').hidden = !calls.length;
  const count = `${calls.length}${next ? ' or more' : ''} ${calls.length === 1 ? 'call waits' : 'calls wait'}`;
  write($('waiting').firstChild, `${count} for a decision`);
}

// ---- the page

/** Load the next page, and further ones as long as the end of the list is on the screen. */
const older = () => list.older().then(() => {
  paint();
  end.unobserve($('more'));
  end.observe($('more')); // tells at once whether it is visible
}, (fault) => refuse(fault.message));
// A busy page gets several changes at once: the last one counts.
const end = new IntersectionObserver((changes) => changes.at(-1).isIntersecting && !$('more').hidden && older());
end.observe($('more'));
$('more').onclick = older;
$('export').onclick = () => act(exportRuns);
const query = filters($('filters'), () => look());
const look = watch(load);
const act = actions(look, refuse);
addAgents($('filters').elements.agent);
