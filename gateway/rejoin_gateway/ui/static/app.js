// The playground: connects the page to the session whose id is the fragment of the address.

import { Session, fresh } from './session.js';
import { $, arrange, h, iconButton, themeSwitch, write } from './dom.js';
import { icon } from './icons.js';
import { Messages } from './message.js';
import { lacksContext, savedContext, settingsDialog } from './settings.js';
import { Side } from './side.js';
import { byteSize } from './times.js';
import { wire } from './wire.js';

const DEMO = 'demo'; // the agent of `rejoin dev` that shows what happens when something breaks
const PLUGS = 'rejoin.plugs';
const TITLE_CHARS_MAX = 60;
const WAITS = { steer: 'The agent reads it at its next step.', enqueue: 'It is answered after this answer.' };
const WORKS = ['streaming', 'reconnecting', 'waiting'];

let session;
let agents = [];
let files = []; // { filename, mediaType, url, size } of the message being written
let editing = null;
let painting = 0;
let loaded = false; // the gateway has said which agents there are

const messages = new Messages({
  inspect: (run) => `/inspect#${run}`,
  waiting: (run) => session.pending(run),
  decide: (run, part, decision) => session.decide(run, part, decision),
  output: (run, part, given) => session.output(run, part, given),
  regenerate: (message) => session.regenerate(message),
  edit: (message) => {
    editing = message;
    $('field').value = message.parts.filter((part) => part.type === 'text').map((part) => part.text).join('\n');
    $('field').focus();
    repaint();
  },
});
const side = new Side(() => session?.id, () => session.refresh());

// ---- the session

/** The session that the fragment of the address names, or undefined. */
function namedByAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1)) || undefined;
  } catch {
    return undefined; // it is not percent-encoded UTF-8
  }
}

function open() {
  const named = namedByAddress();
  if (session && session.id === named) return;
  session?.leave();
  editing = null;
  session = new Session(named ?? fresh(), repaint);
  session.context = savedContext(chosen());
  repaint();
  side.mark();
  if (named) session.open();
}

/** Whether a run works: a message can be sent to it, or for after it. */
const canAdd = () => session.busy && !editing && WORKS.includes(session.live.state);

/** Send what is written. `whenBusy`: what becomes of it while a run works, `steer` or `enqueue`. */
async function send(text, whenBusy = 'steer') {
  const content = text.trim();
  if ((session.busy && !canAdd()) || (!content && !files.length)) return;
  const parts = [...files.map(({ filename, mediaType, url }) => ({ type: 'file', filename, mediaType, url })), ...(content ? [{ type: 'text', text: content }] : [])];
  const edited = editing;
  const sentFiles = files;
  editing = null;
  files = [];
  $('field').value = '';
  history.replaceState(null, '', `#${encodeURIComponent(session.id)}`);
  $('scroll').scrollTop = $('scroll').scrollHeight;
  if (session.busy) {
    if (!(await session.add(parts, whenBusy))) [$('field').value, files] = [$('field').value || content, sentFiles];
    return;
  }
  const done = edited ? session.edit(edited, content) : session.send(parts);
  setTimeout(() => side.look(), 400);
  await done;
  if (session.fault && !session.messages.some((message) => message.role === 'user' && message.parts.some((part) => part.text === content))) {
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
  const { busy, fault, live } = session;
  const scroll = $('scroll');
  const low = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 120;
  const shown = session.messages;
  const ids = shown.map(({ id }) => id);
  const runOf = (at) => session.runs.get(ids[at]) ?? session.runs.get(ids[at + 1]) ?? '';
  arrange($('log'), shown.map((message, at) => {
    const last = at === shown.length - 1;
    return messages.article(message, { busy: busy && last && message.role === 'assistant', last, idle: !busy, run: runOf(at) });
  }).concat(session.waiting.map((message) =>
    messages.article({ ...message, id: `${message.id} waits`, parts: [...message.parts, { type: 'note', text: WAITS[message.whenBusy] }] }, { busy: true }))));
  $('intro').hidden = !loaded || shown.length > 0 || (busy && Boolean(location.hash));
  const title = session.title.trim().slice(0, TITLE_CHARS_MAX);
  write($('title'), title || 'New session');
  document.title = title ? `${title} · Rejoin` : 'Rejoin';
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
  $('stop').hidden = !busy || !WORKS.includes(state);
  const isDemo = wire.agent === DEMO;
  const hasPlugs = isDemo || wire.cut || localStorage.getItem(PLUGS) === 'shown';
  $('plugs').hidden = isDemo;
  $('plugs').setAttribute('aria-expanded', String(hasPlugs));
  for (const part of [$('cut').parentElement, $('tape'), $('facts')]) part.hidden = !hasPlugs;
  $('kill').hidden = !hasPlugs || !('dev' in document.documentElement.dataset);
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
  $('send').hidden = canAdd();
  $('steer').hidden = $('queue').hidden = !canAdd();
  write($('send'), editing ? 'Save' : 'Send');
  for (const idea of $('ideas').children) idea.disabled = busy;
  $('files').hidden = !files.length && !editing;
  const cancel = editing ? [h('li', {}, 'Editing: later messages will be deleted', remover('Do not edit', () => ((editing = null), ($('field').value = ''))))] : [];
  arrange($('files'), [...cancel, ...files.map((file) => h('li', {}, ...(file.mediaType.startsWith('image/') ? [h('img', { src: file.url, alt: '' })] : [icon('file')]),
    file.filename, h('span', { className: 'small', textContent: byteSize(file.size) }), remover(`Remove ${file.filename}`, () => (files = files.filter((other) => other !== file)))))]);
}

const remover = (label, act) => iconButton('close', label, { onclick: () => (act(), repaint(), $('field').focus()) });

// ---- files

async function attach(list) {
  const read = (file) => new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ filename: file.name, mediaType: file.type, url: reader.result, size: file.size });
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
  files = [...files, ...(await Promise.all([...list].map(read)))];
  repaint();
}

// ---- agents and settings

/** The agent that is chosen, as the gateway lists it; undefined before it has answered. */
const chosen = () => agents.find(({ name }) => name === wire.agent);

async function loadAgents() {
  session.fault = '';
  const found = await wire.json('/api/agents').catch((fault) => ((session.fault = fault.message), null));
  agents = found ?? agents;
  loaded ||= found !== null;
  wire.agent ||= new URLSearchParams(location.search).get('agent') ?? agents[0]?.name ?? '';
  paintAgents();
  repaint();
}

function paintAgents() {
  const names = new Set([...agents.map(({ name }) => name), ...(wire.agent ? [wire.agent] : [])]);
  arrange($('agent'), [...names].map((name) => h('option', { value: name, textContent: name })));
  $('agent').value = wire.agent;
  session.context = savedContext(chosen());
  settings.paint();
  paintIntro();
}

/** What the chosen agent is and what one can ask it. */
function paintIntro() {
  const isDemo = wire.agent === DEMO;
  const { description, suggestions = [] } = chosen() ?? {};
  $('agent').title = description ?? '';
  $('demo-intro').hidden = !isDemo;
  $('agent-intro').hidden = isDemo;
  write($('agent-name'), wire.agent || 'No agent is served here yet.');
  const none = agents.length ? 'No runner serves this agent now. What you send waits for one.' : 'Start a runner, for example: rejoin runner shop:agents';
  write($('agent-about'), chosen() ? description || 'Write a message to begin.' : none);
  $('agent-context').hidden = !lacksContext(chosen());
  arrange($('ideas'), suggestions.map((idea) => h('button', { textContent: idea, onclick: () => (send(idea), $('field').focus()) })));
}

const settings = settingsDialog(chosen, () => {
  session.context = savedContext(chosen()); // a message may be sent before the agents are loaded
  loadAgents().then(() => (side.look(), session.messages.length || !location.hash || session.open()));
});
$('give-context').onclick = settings.open;
$('agent').onchange = () => {
  wire.agent = $('agent').value;
  if (session.messages.length) location.hash = ''; // another agent needs another session
  history.replaceState(null, '', `?agent=${encodeURIComponent(wire.agent)}${location.hash}`);
  paintAgents();
  repaint();
};

// ---- the page

$('steer').onclick = () => (send($('field').value), $('field').focus());
$('queue').onclick = () => (send($('field').value, 'enqueue'), $('field').focus());
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
$('stop').onclick = () => (session.stop(), $('field').focus());
$('kill').onclick = () => wire.fetch('/dev/kill-runner', { method: 'POST' }).catch(() => {});
$('plugs').onclick = () => {
  localStorage.setItem(PLUGS, $('plugs').getAttribute('aria-expanded') === 'true' ? '' : 'shown');
  repaint();
};
$('new').onclick = begin;

function begin() {
  location.hash = '';
  open();
  $('field').focus();
}

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

const isWriting = ({ target }) => target.closest('input, textarea, select, dialog, [contenteditable]');
addEventListener('keydown', (event) => {
  const { key, ctrlKey, metaKey, shiftKey } = event;
  if (event.isComposing) return;
  if (key === 'Escape' && document.body.classList.contains('menu')) menu(false);
  else if (key === 'Escape' && !$('stop').hidden && !document.querySelector('dialog[open]')) session.stop();
  else if (key === '/' && !isWriting(event)) $('field').focus();
  else if (key.toLowerCase() === 'o' && shiftKey && (ctrlKey || metaKey)) begin();
  else return;
  event.preventDefault();
});

document.querySelector('.skip').onclick = (event) => {
  event.preventDefault(); // the fragment of the address is the session
  $('field').focus();
};
wire.addEventListener('change', repaint);
addEventListener('hashchange', open);
document.addEventListener('visibilitychange', () => document.hidden || !location.hash || session.refresh());

// A link may name a session as `?session=`, too.
const query = new URLSearchParams(location.search);
const linked = query.get('session');
query.delete('session');
if (linked && !location.hash) history.replaceState(null, '', `?${query}#${encodeURIComponent(linked)}`);

const icons = { toggle: 'menu', settings: 'settings', attach: 'attach', new: 'add', plugs: 'plug', stop: 'stop' };
for (const [id, name] of Object.entries(icons)) $(id).prepend(icon(name));
themeSwitch($('theme'));
write($('host'), location.host);
open();
loadAgents();
side.look();
