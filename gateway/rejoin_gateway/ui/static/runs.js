// The runs of a tenant: a list with filters that stay in the address, and what waits for somebody.

import { $, arrange, h, Kept, themeSwitch, write } from './dom.js';
import { duration } from './timeline.js';
import { wire } from './wire.js';

const LOOK_MS = 3_000;
const PAGE = 50;
const WAITING_MAX = 20;
const BUSY = ['queued', 'running', 'suspended'];
const FIELDS = ['state', 'agent', 'user', 'session', 'since'];

const kept = new Kept();
const filters = $('filters');
let pages = 1;
let looking = null;
let again = false;

// ---- the list

/** The filters of the address, as the parameters of a request. */
function query() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const hours = Number(wanted.get('since'));
  if (hours) wanted.set('since', new Date(Date.now() - hours * 3_600_000).toISOString());
  return wanted;
}

async function list() {
  const wanted = query();
  wanted.set('limit', PAGE);
  const found = [];
  for (let page = 0, next = ''; page < pages && (next || !page); page += 1) {
    if (next) wanted.set('before', next);
    const answer = await wire.json(`/api/runs?${wanted}`);
    found.push(...answer.runs);
    next = answer.next ?? '';
    $('more').hidden = !next;
  }
  return found;
}

/** Load everything and show it. A call while another one loads makes that one load again. */
async function look() {
  if (looking) {
    again = true;
    return;
  }
  looking = true;
  try {
    paint(await list());
    await paintWaiting();
    write($('notice'), '');
    $('key-form').hidden = true;
  } catch (fault) {
    write($('notice'), fault.message);
    $('key-form').hidden = ![401, 403].includes(fault.status);
  }
  looking = false;
  if (again) {
    again = false;
    await look();
  }
}

function paint(runs) {
  arrange($('runs').tBodies[0], runs.map((run) => row(run)));
  const filtered = location.hash.length > 1;
  write($('none'), filtered ? 'No run has all of this.' : 'There are no runs yet. Send a message in the playground.');
  $('none').hidden = runs.length > 0;
}

function row(run) {
  const made = kept.get(run.id, () =>
    h('tr', {},
      h('td', {}, h('span'), h('span', { className: 'cause' })),
      h('td', {}, h('a', { href: `/inspect#${run.id}`, title: run.id }, h('code', { textContent: `…${run.id.slice(-8)}` }))),
      h('td', { textContent: run.agentId }),
      h('td', {}, h('a', { href: `/playground?agent=${encodeURIComponent(run.agentId)}#${encodeURIComponent(run.sessionId)}`, textContent: run.sessionId, title: run.sessionId })),
      h('td', { textContent: run.userId ?? '' }),
      h('td', { textContent: new Date(run.createdAt).toLocaleString(), title: run.createdAt }),
      h('td'), h('td'), h('td'), h('td'), h('td')));
  const [state, , , , , , waited, took, tokens, attempts, actions] = made.cells;
  const [name, cause] = state.children;
  name.className = `state ${run.state}`;
  write(name, run.state);
  write(cause, run.error ?? '');
  const begun = run.startedAt && Date.parse(run.startedAt);
  write(waited, duration((begun || Date.now()) - Date.parse(run.createdAt)));
  write(took, begun ? duration((run.endedAt ? Date.parse(run.endedAt) : Date.now()) - begun) : '');
  write(tokens, `${run.usage.inputTokens} in, ${run.usage.outputTokens} out`);
  write(attempts, String(run.attempts));
  const stop = kept.get(`${run.id} stop`, () => h('button', { textContent: 'Interrupt', onclick: () => interrupt(run.id), 'aria-label': `Interrupt ${run.id}` }));
  arrange(actions, BUSY.includes(run.state) ? [stop] : []);
  return made;
}

async function interrupt(run) {
  await act(`/run/api/executions/${run}/interrupt`, {});
}

/** Send a change, and show what has become of it. */
async function act(path, body) {
  try {
    const response = await wire.post(path, body)();
    if (!response.ok) throw new Error(problem(await response.json().catch(() => ({})), response.status));
  } catch (fault) {
    write($('notice'), fault.message);
    return;
  }
  await look();
}

const problem = ({ detail, message, error }, status) => detail ?? message ?? error?.message ?? `The gateway answered ${status}.`;

// ---- what waits for somebody

async function paintWaiting() {
  const wanted = new URLSearchParams({ state: 'suspended', limit: WAITING_MAX });
  const { runs, next } = await wire.json(`/api/runs?${wanted}`);
  const details = await Promise.all(runs.map(({ id }) => wire.json(`/run/api/executions/${id}`)));
  const asked = details.flatMap((run) => [
    ...(run?.pendingApprovals ?? []).map((call) => question(run, call)),
    ...(run?.pendingToolOutputs ?? []).map((call) => clientCall(run, call)),
  ]);
  arrange($('calls'), asked);
  write($('none-waits'), next ? `These are the newest ${WAITING_MAX} runs that wait. The list below has all: choose the state suspended.` : 'Nothing waits for a decision.');
  $('none-waits').hidden = asked.length > 0 && !next;
}

/** The entry of a waiting call, made once: what a person has typed into it stays. `below` makes its controls. */
function call(run, { toolCallId, toolName, input }, below) {
  return kept.get(`${run.id} ${toolCallId}`, () =>
    h('li', {},
      h('header', {}, h('strong', { textContent: toolName }), h('span', { className: 'small', textContent: `${run.agentId}, since ${new Date(run.updatedAt).toLocaleString()}` }),
        h('a', { className: 'small', href: `/inspect#${run.id}`, textContent: 'Inspect the run' })),
      h('pre', { textContent: JSON.stringify(input, null, 2), tabIndex: 0, 'aria-label': `Arguments of ${toolName}` }),
      below()));
}

const question = (run, pending) => call(run, pending, () => decision(run, pending));

/** The controls of an approval: decide it, with a reason, and with other arguments where the tool allows it. */
function decision(run, { toolCallId, toolName, input, inputSchema }) {
  const reason = h('input', { placeholder: 'Reason (the agent reads it)', 'aria-label': `Reason for the decision about ${toolName}` });
  const edited = h('textarea', { rows: 5, value: JSON.stringify(input, null, 2), spellcheck: false, 'aria-label': `Changed arguments of ${toolName}` });
  const decide = (approved) => {
    const body = { approved, ...(reason.value.trim() && { reason: reason.value.trim() }) };
    if (approved && inputSchema && !edited.hidden) {
      try {
        body.input = JSON.parse(edited.value);
      } catch (fault) {
        return write($('notice'), `The arguments of ${toolName} are no JSON: ${fault.message}`);
      }
    }
    return act(`/run/api/executions/${run.id}/approvals/${encodeURIComponent(toolCallId)}`, body);
  };
  edited.hidden = true;
  const change = h('button', { textContent: 'Change the arguments', hidden: !inputSchema, onclick: () => ((edited.hidden = false), edited.focus()) });
  return h('div', { className: 'decide', role: 'group', 'aria-label': `Decide ${toolName}` },
    edited, reason, change,
    h('button', { textContent: 'Deny', onclick: () => decide(false) }),
    h('button', { className: 'strong', textContent: 'Approve', onclick: () => decide(true) }));
}

function clientCall(run, pending) {
  return call(run, pending, () => h('p', { className: 'decide small', textContent: 'The application answers this call: its tool runs in the client.' }));
}

// ---- the page

/** Take the filters from the address. */
function readAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const name of FIELDS) {
    const field = filters.elements[name];
    const value = wanted.get(name) ?? '';
    if (name === 'agent' && value && ![...field.options].some((option) => option.value === value)) field.append(h('option', { value, textContent: value }));
    field.value = value;
  }
  pages = 1;
}

filters.oninput = () => {
  const wanted = new URLSearchParams();
  for (const name of FIELDS) if (filters.elements[name].value.trim()) wanted.set(name, filters.elements[name].value.trim());
  history.replaceState(null, '', `#${wanted}`);
  pages = 1;
  look();
};
filters.onsubmit = (event) => event.preventDefault();
$('more').onclick = () => {
  pages += 1;
  look();
};
$('key-form').onsubmit = (event) => {
  event.preventDefault();
  wire.key = $('key').value.trim();
  start();
};

async function start() {
  const agents = (await wire.json('/api/agents').catch(() => null)) ?? [];
  const known = [...filters.elements.agent.options].map(({ value }) => value);
  filters.elements.agent.append(...agents.filter(({ name }) => !known.includes(name)).map(({ name }) => h('option', { value: name, textContent: name })));
  readAddress();
  await look();
}

addEventListener('hashchange', () => (readAddress(), look()));
setInterval(() => document.hidden || look(), LOOK_MS);
themeSwitch($('theme'));
start();
