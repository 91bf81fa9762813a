// The inbox: all calls of the tenant that wait for somebody, to decide them with a reason and with other arguments.

import { addAgents, change, filters, firstPages, refusalLine, sessionLink, watch } from './console.js';
import { $, arrange, h, Kept, write } from './dom.js';
import { schemaForm } from './form.js';
import { duration, shortTime } from './times.js';
import { wire } from './wire.js';

const PAGE = 50;

const kept = new Kept();
const refused = new Map(); // what the gateway said to a decision, by call; it stays until it is dismissed
let pages = 1;
let calls = [];
let current = ''; // the call that keys decide

const controlsOf = (id) => `${id} controls`;
const idOf = ({ runId, approvalId }) => `${runId} ${approvalId}`;

async function load() {
  const wanted = query();
  wanted.set('limit', PAGE);
  const [found, next] = await firstPages(pages, 'calls', wanted, (page) => wire.json(`/api/approvals?${page}`));
  calls = found;
  $('more').hidden = !next;
  paint();
}

function paint() {
  const shown = new Set(calls.map(idOf));
  if (!shown.has(current)) current = '';
  kept.retain(new Set([...shown].flatMap((id) => [id, controlsOf(id)])));
  arrange($('calls'), calls.map((call) => entry(call)));
  const gone = [...refused].filter(([id]) => !shown.has(id)); // somebody else has decided the call, or it has expired
  arrange($('refusals'), gone.map(([id, { words, tool }]) => refusal(id, `${tool}: ${words}`)));
  $('none').hidden = calls.length > 0;
  write($('none'), location.hash.length > 1
    ? 'Nothing that waits has all of this. Empty the filters to see everything.'
    : 'Nothing waits. A tool with needs_approval=True asks here before it runs; so does a tool that a client runs.');
  document.title = `${calls.length ? `(${calls.length}${$('more').hidden ? '' : '+'}) ` : ''}Approvals · Rejoin`;
}

const refusal = (id, words) => refusalLine(words, () => (refused.delete(id), paint()));

// ---- one call

/** The entry of a call, made once: what a person has typed into it stays. */
function entry(call) {
  const id = idOf(call);
  const made = kept.get(id, () => makeEntry(call, id));
  made.toggleAttribute('aria-current', id === current);
  if (id === current) made.setAttribute('aria-current', 'true');
  const [heading] = made.children;
  const left = call.expiresAt ? Date.parse(call.expiresAt) - Date.now() : null;
  const due = left === null ? '' : left > 0 ? `, denied in ${duration(left)} if nobody decides` : ', expired';
  write(heading.querySelector('.since'), `for ${duration(Date.now() - Date.parse(call.since))}${due}`);
  const box = made.querySelector('.said');
  const said = refused.get(id);
  if (said?.words !== box.dataset.words) {
    box.dataset.words = said?.words ?? '';
    arrange(box, said ? [refusal(id, said.words)] : []);
  }
  return made;
}

function makeEntry(call, id) {
  const isAsked = call.kind === 'approval';
  const made = h('li', { className: isAsked ? 'asks' : '', tabIndex: -1 },
    h('header', {}, h('strong', { textContent: call.toolName }),
      h('span', { className: 'small since', title: `since ${shortTime(call.since)}` }),
      h('a', { className: 'small', href: `/inspect#${call.runId}`, textContent: 'Inspect the run', 'aria-label': `Inspect the run that asks for ${call.toolName}` })),
    h('pre', { textContent: JSON.stringify(call.input, null, 2), tabIndex: 0, role: 'region', 'aria-label': `Arguments of ${call.toolName}` }),
    h('p', { className: 'facts small' },
      h('span', {}, 'Agent ', h('strong', { textContent: call.agentId })),
      h('span', {}, 'Session ', sessionLink(call.agentId, call.sessionId)),
      h('span', { textContent: call.userId ? `User ${call.userId}` : 'No user' }),
      h('span', { textContent: deciders(call) })),
    isAsked && call.deciders.you ? decision(call, id) : h('p', { className: 'decide small' },
      h('span', { textContent: isAsked ? 'Your key lacks the scope approve: it shows this call and cannot decide it.' : 'The application answers this call: its tool runs in the client.' }),
      h('span', { className: 'said' })));
  made.addEventListener('focusin', () => mark(id));
  return made;
}

/** Who may answer, in words. */
function deciders({ kind, userId, deciders: { scope } }) {
  const who = userId ? `${userId}, or whoever has a key of the whole tenant` : 'whoever has a key of the whole tenant';
  return kind === 'approval' ? `May be decided by ${who}, with the scope ${scope}` : `Waits for the client of ${who}`;
}

/** The controls of an approval. A choice is made by the keys and sent by Enter, or made and sent by a click. */
function decision(call, id) {
  const { toolName, inputSchema } = call;
  const reason = h('input', { className: 'reason', placeholder: 'Reason (the agent reads it)', 'aria-label': `Reason for the decision about ${toolName}` });
  const buttons = { true: null, false: null };
  let form = null;
  let chosen = null;
  const choose = (approved) => {
    chosen = approved;
    for (const [value, button] of Object.entries(buttons)) button.classList.toggle('chosen', value === String(approved));
  };
  const send = async (approved) => {
    for (const button of Object.values(buttons)) button.disabled = true;
    try {
      const given = reason.value.trim();
      const input = approved && form ? { input: form.read() } : {};
      await change(`/run/api/executions/${call.runId}/approvals/${encodeURIComponent(call.toolCallId)}`, { approved, ...(given && { reason: given }), ...input });
      refused.delete(id);
      step(1);
    } catch (fault) {
      refused.set(id, { words: fault.message, tool: toolName });
    }
    for (const button of Object.values(buttons)) button.disabled = false;
    choose(null);
    paint();
    await look();
  };
  const button = (name, approved, className) => h('button', { type: 'button', textContent: name, className, onclick: () => send(approved) });
  buttons.false = button('Deny', false, '');
  buttons.true = button('Approve', true, 'strong');
  const edit = () => {
    if (!inputSchema) return;
    if (!form) {
      form = schemaForm(inputSchema, call.input, `changed argument of ${toolName}`);
      box.prepend(form.element);
      changeButton.hidden = true;
    }
    form.element.querySelector('input, textarea, select').focus();
  };
  const changeButton = h('button', { type: 'button', textContent: 'Change the arguments', hidden: !inputSchema, onclick: edit });
  reason.onkeydown = ({ key, isComposing }) => key === 'Enter' && !isComposing && chosen !== null && send(chosen);
  const box = h('div', { className: 'decide', role: 'group', 'aria-label': `Decide ${toolName}` },
    reason, changeButton, buttons.false, buttons.true, h('span', { className: 'said' }));
  kept.get(controlsOf(id), () => ({ choose: (approved) => (choose(approved), reason.focus()), leave: () => choose(null), edit }));
  return box;
}

// ---- keys

function mark(id) {
  if (id === current) return;
  current = id;
  paint();
}

/** Go to the next call, or to the one before. */
function step(by) {
  const at = calls.findIndex((call) => idOf(call) === current);
  const call = calls[Math.min(Math.max(at + by, 0), calls.length - 1)];
  if (!call) return;
  mark(idOf(call));
  const element = entry(call);
  element.focus({ preventScroll: true });
  element.scrollIntoView({ block: 'nearest' });
}

const controls = () => (current || null) && kept.get(controlsOf(current), () => null);
const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  a: () => controls()?.choose(true),
  d: () => controls()?.choose(false),
  e: () => controls()?.edit(),
  '?': () => $('keys').showModal(),
};

addEventListener('keydown', (event) => {
  const { key, target, ctrlKey, metaKey, altKey } = event;
  if (ctrlKey || metaKey || altKey || $('keys').open) return;
  const isTyping = target.closest?.('input, textarea, select');
  if (key === 'Escape' && isTyping) {
    controls()?.leave();
    target.closest('li')?.focus();
  } else if (!isTyping && KEYS[key]) {
    event.preventDefault();
    KEYS[key]();
  }
});

// ---- the page

$('help').onclick = KEYS['?'];
$('more').onclick = () => ((pages += 1), look());
const query = filters($('filters'), () => ((pages = 1), look()));
const look = watch(load);
addAgents($('filters').elements.agent);
