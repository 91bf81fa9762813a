// The sessions of a tenant: find one by its name; read, rename, fork and delete it.

import { actions, addAgents, change, filters, firstPages, once, refusals, time, watch } from './console.js';
import { $, arrange, h, Kept, save, write } from './dom.js';
import { Messages } from './message.js';
import { money } from './times.js';
import { wire } from './wire.js';

const PAGE = 50;
const REPORTS_MAX = 100;

const kept = new Kept();
const refuse = refusals($('refusals'));
let pages = 1;
let messages = new Messages();
let opened = ''; // the session that is shown
let shown = ''; // as of when

// ---- the list

async function load() {
  const wanted = query();
  const [session, agent] = [wanted.get('session'), wanted.get('of')];
  $('list').hidden = Boolean(session);
  $('session').hidden = !session;
  if (session && agent) return show(agent, session);
  opened = shown = '';
  document.title = 'Sessions · Rejoin';
  wanted.set('limit', PAGE);
  const [found, next] = await firstPages(pages, 'sessions', wanted, (page) => wire.json(`/api/sessions?${page}`));
  $('more').hidden = !next;
  write($('more'), wanted.get('text') ? 'Search further back' : 'Older ones');
  kept.retain(new Set(found.map(keyOf)));
  arrange($('sessions-table').tBodies[0], found.map((one) => row(one)));
  const filtered = ['text', 'agent', 'user'].some((name) => wanted.get(name));
  write($('none'), !filtered ? 'There are no sessions yet. Send a message in the playground.'
    : next ? 'None of the sessions that changed last has all of this. Search further back.' : 'No session has all of this. Empty the filters to see all.');
  $('none').hidden = found.length > 0;
}

const keyOf = ({ id, title, updatedAt, active }) => `${id} ${title} ${updatedAt} ${active}`;

function row(one) {
  return kept.get(keyOf(one), () => h('tr', {},
    h('td', {}, h('a', { href: linkTo(one), textContent: one.title ?? one.id, title: one.id }), one.active ? h('span', { className: 'state running small', textContent: ' answers' }) : ''),
    h('td', { textContent: one.agentId }), h('td', { className: 'name', textContent: one.userId ?? '', title: one.userId ?? '' }), h('td', { textContent: String(one.messages) }),
    h('td', {}, time(one.updatedAt)), h('td', {}, time(one.createdAt))));
}

/** The address of a session, with the present filters. */
function linkTo({ id, agentId }) {
  const wanted = new URLSearchParams(location.hash.slice(1));
  wanted.set('session', id);
  wanted.set('of', agentId);
  return `#${wanted}`;
}

// ---- one session

async function show(agent, id) {
  const path = `/api/agents/${encodeURIComponent(agent)}/${encodeURIComponent(id)}`;
  const conversation = `/run/v1/conversations/${encodeURIComponent(id)}`;
  const summary = await wire.json(`${conversation}?limit=1`);
  if (!summary) throw new Error('There is no such session, or it was deleted.');
  const { title, updatedAt, active } = summary.data;
  const isNews = active || shown !== `${id} ${updatedAt} ${title}`; // a long history is read again only if it has changed
  if (!isNews) return;
  const [history, usage, runs, feedback] = await Promise.all([
    wire.json(path), wire.json(`${path}/usage`), wire.json(`${conversation}/executions`),
    wire.json(`/run/v1/feedback?conversationId=${encodeURIComponent(id)}&limit=${REPORTS_MAX}`)]);
  if (!history) throw new Error('This session is with another agent.');
  shown = active ? '' : `${id} ${updatedAt} ${title}`;
  const name = title ?? id;
  if (opened !== id) {
    opened = id;
    messages = new Messages();
    $('session-title').focus();
  }
  write($('session-title'), name);
  document.title = `${name} · Rejoin`;
  const cost = usage?.costUsd == null ? '' : `, ${money(usage.costUsd)}`;
  arrange($('session-facts'), [h('span', {}, 'Agent ', h('strong', { textContent: agent })), h('code', { textContent: id }),
    h('span', {}, 'changed ', time(history.updatedAt)), h('span', {}, 'begun ', time(history.createdAt)),
    h('span', { textContent: usage ? `${usage.totalTokens} tokens${cost}` : '' })]);
  $('open').href = `/playground?agent=${encodeURIComponent(agent)}#${encodeURIComponent(id)}`;
  $('rename').onclick = () => rename(path, name);
  $('delete').onclick = () => remove(path, name);
  paintMessages(agent, id, history.messages);
  paintRuns(runs?.executions ?? []);
  paintFeedback(feedback?.data ?? []);
  paintFiles(history.messages);
}

function paintMessages(agent, session, list) {
  arrange($('messages'), list.map((message) => {
    const article = messages.article(message);
    if (message.role !== 'user') return article;
    const again = kept.get(`again ${message.id}`, () => h('div', { className: 'again' },
      h('button', { className: 'quiet', textContent: 'Fork before this', onclick: once(() => act(() => fork(session, message.id).then(({ thread }) => go(agent, thread.id)))) })));
    if (again.parentNode !== article) article.append(again);
    return article;
  }));
  if (!list.length) arrange($('messages'), [h('p', { className: 'small', textContent: 'No messages yet.' })]);
}

const fork = (session, messageId) => change(`/api/threads/${encodeURIComponent(session)}/fork`, { messageId });

function go(agent, id) {
  location.hash = linkTo({ id, agentId: agent });
}

function lines(list, element, made, empty) {
  arrange(element, list.length ? list.map(made) : [h('li', { className: 'small', textContent: empty })]);
}

const paintRuns = (runs) => lines(runs, $('session-runs'), ({ id, state, status, createdAt }) =>
  h('li', {}, h('span', { className: `state ${state ?? status}`, textContent: state ?? status }), ' ', h('a', { href: `/inspect#${id}`, textContent: `…${id.slice(-8)}` }), ' ', createdAt ? time(createdAt) : '', ...((state ?? status) === 'suspended' ? [' ', h('a', { href: `/approvals#run=${id}`, textContent: 'Decide' })] : [])), 'No run: its messages were copied.');

const paintFeedback = (given) => lines(given, $('feedback'), ({ type, details, createdAt }) =>
  h('li', {}, h('strong', { textContent: type }), ' ', details ? `${typeof details === 'string' ? details : JSON.stringify(details)} ` : '', createdAt ? time(createdAt) : ''), 'Nobody has given feedback.');

function paintFiles(list) {
  const parts = list.flatMap((message) => message.parts).filter(({ type }) => type === 'file' || type === 'data-artifact');
  lines(parts, $('files-list'), (part) => {
    const isFile = part.type === 'file';
    const name = isFile ? part.filename ?? part.mediaType : part.data?.name ?? part.data?.type ?? 'artifact';
    return h('li', {}, h('button', { className: 'quiet', textContent: name, onclick: () => act(() => download(isFile ? part.url : `/run/api/artifacts/${encodeURIComponent(part.data?.artifactId ?? part.data?.id)}`, name)) }), isFile ? ' file' : ' artifact');
  }, 'No files and no artifacts.');
}

/** Fetch with the visitor's key, and save. */
async function download(url, name) {
  const at = url.startsWith('data:') ? url : url.slice(Math.max(0, url.search(/\/(api\/files|run\/api)\//)));
  const response = await (at.startsWith('data:') ? fetch(at) : wire.fetch(at));
  if (!response.ok) throw new Error(`${name} cannot be read: the gateway answered ${response.status}.`);
  save(await response.blob(), name);
}

function rename(path, name) {
  $('new-title').value = name;
  $('rename-dialog').showModal();
  $('rename-form').onsubmit = ({ submitter }) => submitter?.value === 'save' && act(() => change(path, { title: $('new-title').value.trim() || null }, 'PATCH'));
}

function remove(path, name) {
  if (!confirm(`Delete “${name}” with its messages, runs, logs and files? It cannot be undone.`)) return;
  act(() => change(path, {}, 'DELETE').then(leave));
}

/** Back to the list, with its filters. */
function leave() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  wanted.delete('session');
  wanted.delete('of');
  location.hash = String(wanted);
}

// ---- the page

$('close').onclick = leave;
$('more').onclick = () => ((pages += 1), look());
const query = filters($('filters'), () => ((pages = 1), look()));
const look = watch(load, 5_000);
const act = actions(look, refuse);
addAgents($('filters').elements.agent);
