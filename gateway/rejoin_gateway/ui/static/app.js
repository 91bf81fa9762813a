// The playground: connects the page to the conversation whose id is the fragment of the address.

import { Conversation, fresh } from './conversation.js';
import { $, arrange, h, themeSwitch, write } from './dom.js';
import { Messages } from './message.js';
import { Side } from './side.js';
import { wire } from './wire.js';

const IDEAS = ['count 60 every 150 ms', 'weather Paris', 'delete notes.txt', 'think', 'sleep 5', 'fail'];
const CONTEXT = 'rejoin.context';
const WAITS = { type: 'note', text: 'The agent reads it at its next step.' };

let conversation;
let agents = [];
let files = []; // { filename, mediaType, url } of the message being written
let editing = null;
let painting = 0;

const messages = new Messages({
  inspect: (run) => `/inspect#${run}`,
  decide: (message, part, approved) => conversation.decide(message, part, approved),
  regenerate: (message) => conversation.regenerate(message),
  edit: (message) => {
    editing = message;
    $('field').value = message.parts.filter((part) => part.type === 'text').map((part) => part.text).join('\n');
    $('field').focus();
    repaint();
  },
});
const side = new Side(() => conversation?.id, () => conversation.refresh());

// ---- the conversation

/** The conversation that the fragment of the address names, or undefined. */
function namedByAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1)) || undefined;
  } catch {
    return undefined; // it is not percent-encoded UTF-8
  }
}

function open() {
  const named = namedByAddress();
  if (conversation && conversation.id === named) return;
  conversation?.leave();
  editing = null;
  conversation = new Conversation(named ?? fresh(), repaint);
  readContext();
  repaint();
  side.mark();
  if (named) conversation.open();
}

/** Whether a run works that reads messages between its steps. */
const canSteer = () => conversation.busy && !editing && ['streaming', 'reconnecting', 'waiting'].includes(conversation.live.state);

async function send(text) {
  const content = text.trim();
  if ((conversation.busy && !canSteer()) || (!content && !files.length)) return;
  const parts = [...files.map((file) => ({ type: 'file', ...file })), ...(content ? [{ type: 'text', text: content }] : [])];
  const edited = editing;
  const sentFiles = files;
  editing = null;
  files = [];
  $('field').value = '';
  history.replaceState(null, '', `#${encodeURIComponent(conversation.id)}`);
  $('scroll').scrollTop = $('scroll').scrollHeight;
  if (conversation.busy) {
    if (!(await conversation.steer(parts))) [$('field').value, files] = [$('field').value || content, sentFiles];
    return;
  }
  const done = edited ? conversation.edit(edited, content) : conversation.send(parts);
  setTimeout(() => side.look(), 400);
  await done;
  if (conversation.fault && !conversation.messages.some((message) => message.role === 'user' && message.parts.some((part) => part.text === content))) {
    $('field').value ||= content; // the server refused the message
    files = sentFiles;
  }
  side.look();
}

// ---- the view

function repaint() {
  painting ||= requestAnimationFrame(() => {
    painting = 0;
    paint();
  });
}

function paint() {
  const { busy, fault, live } = conversation;
  const scroll = $('scroll');
  const low = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 120;
  const shown = conversation.messages;
  const ids = shown.map(({ id }) => id);
  const runOf = (at) => conversation.runs.get(ids[at]) ?? conversation.runs.get(ids[at + 1]) ?? '';
  arrange($('log'), shown.map((message, at) => {
    const last = at === shown.length - 1;
    return messages.article(message, { busy: busy && last && message.role === 'assistant', last, idle: !busy, run: runOf(at) });
  }).concat(conversation.steering.map((message) =>
    messages.article({ ...message, id: `${message.id} waits`, parts: [...message.parts, WAITS] }, { busy: true }))));
  $('intro').hidden = shown.length > 0 || (busy && Boolean(location.hash));
  write($('title'), conversation.title || 'New conversation');
  document.title = conversation.title ? `${conversation.title} · Rejoin` : 'Rejoin';
  write($('notice'), fault);
  if ($('agent').value !== wire.agent) paintAgents();
  paintWire(live, busy);
  paintComposer(busy);
  if (low) scroll.scrollTop = scroll.scrollHeight;
}

const plural = (count, word) => `${count} ${word}${count === 1 ? '' : 's'}`;

function paintWire({ state, cursor, breaks, rewinds, events, astray, tape }, busy) {
  $('wire').hidden = !state && !wire.cut;
  $('wire').dataset.state = wire.cut ? 'cut' : state;
  const words = {
    waiting: 'Waiting for the first event', streaming: 'Streaming', reconnecting: 'Reconnecting',
    suspended: 'Waits for you', finished: 'Complete', stopped: 'Stopped', failed: 'Failed',
  };
  write($('state'), wire.cut ? 'Cut. The run continues on the server' : (words[state] ?? 'Idle'));
  const order = astray ? `${astray} out of order` : 'each once, in order';
  const facts = events ? [`${plural(events, 'event')}, ${order}`] : [];
  if (breaks) facts.push(`rejoined ${breaks}×`);
  if (rewinds) facts.push(`taken over ${rewinds}×`);
  if (cursor) facts.push(`cursor ${cursor}`);
  write($('facts'), facts.join(' · '));
  $('stop').hidden = !busy || !['streaming', 'reconnecting', 'waiting'].includes(state);
  $('kill').hidden = !('dev' in document.documentElement.dataset);
  $('cut').checked = wire.cut;
  paintTape(tape);
}

/** A tick for each of the last events. The first tick after a broken connection has a notch. */
function paintTape(tape) {
  arrange($('tape'), tape.map((event, at) => {
    event.tick ??= h('i', { className: event.kind });
    event.tick.classList.toggle('rejoined', at > 0 && event.breaks > tape[at - 1].breaks);
    return event.tick;
  }));
}

function paintComposer(busy) {
  $('send').disabled = busy;
  $('steer').hidden = !canSteer();
  write($('send'), editing ? 'Save' : 'Send');
  for (const idea of $('ideas').children) idea.disabled = busy;
  $('files').hidden = !files.length && !editing;
  const cancel = editing ? [h('li', {}, 'Editing: later messages will be deleted', button('Cancel', () => ((editing = null), ($('field').value = ''))))] : [];
  arrange($('files'), [...cancel, ...files.map((file) => h('li', {}, file.filename, button('Remove', () => (files = files.filter((other) => other !== file)))))]);
}

function button(name, act) {
  return h('button', { type: 'button', className: 'quiet', textContent: name, onclick: () => (act(), repaint(), $('field').focus()) });
}

// ---- files

async function attach(list) {
  const read = (file) => new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ filename: file.name, mediaType: file.type, url: reader.result });
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
  files = [...files, ...(await Promise.all([...list].map(read)))];
  repaint();
}

// ---- agents and settings

async function loadAgents() {
  conversation.fault = '';
  agents = (await wire.json('/api/agents').catch((fault) => ((conversation.fault = fault.message), null))) ?? agents;
  repaint();
  wire.agent ||= new URLSearchParams(location.search).get('agent') ?? agents[0]?.name ?? '';
  paintAgents();
}

function paintAgents() {
  const names = new Set([...agents.map(({ name }) => name), ...(wire.agent ? [wire.agent] : [])]);
  arrange($('agent'), [...names].map((name) => h('option', { value: name, textContent: name })));
  $('agent').value = wire.agent;
  const { description, contextSchema } = agents.find(({ name }) => name === wire.agent) ?? {};
  $('agent').title = description ?? '';
  $('schema').hidden = !contextSchema;
  write($('schema').querySelector('pre'), contextSchema ? JSON.stringify(contextSchema, null, 2) : '');
  write($('context-note'), contextSchema ? 'JSON that the agent’s tools get besides the message.' : 'This agent takes no context. What you enter here is not sent.');
  const ideas = wire.agent === 'demo' || wire.agent.startsWith('demo-') ? IDEAS : [];
  arrange($('ideas'), ideas.map((idea) => h('button', { textContent: idea, onclick: () => send(idea) })));
  readContext();
}

const contextName = () => `${CONTEXT}.${wire.agent}`;

function readContext() {
  const schema = agents.find(({ name }) => name === wire.agent)?.contextSchema;
  const saved = JSON.parse(localStorage.getItem(contextName()) ?? 'null');
  if (conversation) conversation.context = schema ? saved : null;
  $('context').value = saved ? JSON.stringify(saved.value, null, 2) : '';
  $('remember').checked = saved?.remember ?? false;
}

$('settings').onclick = () => {
  $('key').value = wire.key;
  write($('wrong'), '');
  paintAgents();
  $('dialog').showModal();
};
$('settings-form').onsubmit = (event) => {
  if (event.submitter?.value !== 'save') return;
  const text = $('context').value.trim();
  try {
    const value = text ? JSON.parse(text) : null;
    if (value && (typeof value !== 'object' || Array.isArray(value))) throw new SyntaxError('it is not an object');
    if (value) localStorage.setItem(contextName(), JSON.stringify({ value, remember: $('remember').checked }));
    else localStorage.removeItem(contextName());
  } catch (fault) {
    event.preventDefault();
    write($('wrong'), `The context is not a JSON object: ${fault.message}`);
    return;
  }
  wire.key = $('key').value.trim();
  readContext(); // a message may be sent before the agents are loaded
  loadAgents().then(() => (side.look(), readContext(), conversation.messages.length || !location.hash || conversation.open()));
};
$('agent').onchange = () => {
  wire.agent = $('agent').value;
  if (conversation.messages.length) location.hash = ''; // another agent needs another conversation
  paintAgents();
};

// ---- the page

$('steer').onclick = () => (send($('field').value), $('field').focus());
$('form').onsubmit = (event) => {
  event.preventDefault();
  send($('field').value);
};
$('field').onkeydown = (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send($('field').value);
};
$('field').onpaste = ({ clipboardData }) => clipboardData.files.length && attach(clipboardData.files);
$('attach').onclick = () => $('file').click();
$('file').onchange = () => attach($('file').files).then(() => (($('file').value = ''), $('field').focus()));
$('stage').ondragover = (event) => event.preventDefault();
$('stage').ondrop = (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) attach(event.dataTransfer.files);
};
$('cut').onchange = () => (wire.cut = $('cut').checked);
$('stop').onclick = () => (conversation.stop(), $('field').focus());
$('kill').onclick = () => wire.fetch('/dev/kill-runner', { method: 'POST' }).catch(() => {});
$('new').onclick = () => ((location.hash = ''), open(), $('field').focus());

// On a narrow screen the list covers the page and the button that opens it.
function menu(shown) {
  document.body.classList.toggle('menu', shown);
  $('toggle').setAttribute('aria-expanded', String(shown));
}
$('toggle').onclick = () => menu(!document.body.classList.contains('menu'));
addEventListener('click', ({ target }) => {
  const isInMenu = target.closest('#toggle, #side') && !target.closest('#side a, #new');
  if (!isInMenu) menu(false);
});
addEventListener('keydown', ({ key }) => key === 'Escape' && menu(false));

document.querySelector('.skip').onclick = (event) => {
  event.preventDefault(); // the fragment of the address is the conversation
  $('field').focus();
};
wire.addEventListener('change', repaint);
addEventListener('hashchange', open);
document.addEventListener('visibilitychange', () => document.hidden || !location.hash || conversation.refresh());

themeSwitch($('theme'));
write($('host'), location.host);
open();
loadAgents();
side.look();
