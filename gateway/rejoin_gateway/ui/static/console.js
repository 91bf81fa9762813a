// What the console's pages share: looking again and again, the form for a key, lists, filters in the address.

import { refusal } from './answer.js';
import { $, h, themeSwitch, write } from './dom.js';
import { shortTime } from './times.js';
import { wire } from './wire.js';

const LOOK_MS = 3_000;
const DOUBLE_CLICK_MS = 500;

/**
 * Load and show a page's data: now, when the returned function is called, and every few seconds while the page is
 * visible. What is asked for while a load runs is loaded after it. A fault stands in the page until a load succeeds.
 */
export function watch(load, everyMs = LOOK_MS) {
  let looking = false;
  let again = false;
  const keyForm = makeKeyForm(() => look());
  $('notice').after(keyForm);
  const look = async () => {
    again = true;
    if (looking) return;
    looking = true;
    while (again) {
      again = false;
      try {
        await load();
        write($('notice'), '');
        keyForm.hidden = true;
      } catch (fault) {
        write($('notice'), fault.message);
        keyForm.hidden = ![401, 403].includes(fault.status);
      }
    }
    looking = false;
  };
  setInterval(() => document.hidden || look(), everyMs);
  document.addEventListener('visibilitychange', () => document.hidden || look());
  themeSwitch($('theme'));
  look();
  return look;
}

function makeKeyForm(use) {
  const key = h('input', { id: 'key', type: 'password', autocomplete: 'off', spellcheck: false, 'aria-describedby': 'key-note' });
  return h('form', {
    id: 'key-form', className: 'row', hidden: true,
    onsubmit: (event) => (event.preventDefault(), (wire.key = key.value.trim()), use()),
  },
  h('label', { for: 'key', textContent: 'API key' }), key, h('button', { className: 'strong', textContent: 'Use it' }),
  h('span', { className: 'small', id: 'key-note' }, 'It needs the scope ', h('code', { textContent: 'admin' }), ', and ', h('code', { textContent: 'approve' }),
    ' to decide. It is kept in this browser. ', h('a', { href: '/playground', textContent: 'The playground' }), ' needs ', h('code', { textContent: 'chat' }), ' only.'));
}

/** Send a change. Returns its JSON; throws `Refused` with the gateway's words. */
export async function change(path, body = {}, method = 'POST') {
  const response = await wire.fetch(path, { method, body: JSON.stringify(body), headers: { 'content-type': 'application/json' } });
  if (!response.ok) throw await refusal(response);
  return response.json().catch(() => ({}));
}

/** Does the work when it is called, unless it is being done or has just been: a double click does it once. */
export function once(work) {
  let busy = false;
  return async () => {
    if (busy) return;
    busy = true;
    try {
      await work();
    } finally {
      setTimeout(() => (busy = false), DOUBLE_CLICK_MS);
    }
  };
}

/** What the gateway refused, until it is dismissed. */
export function refusalLine(words, dismiss = () => made.remove()) {
  const made = h('span', { className: 'refusal' }, h('span', { textContent: words }), h('button', { type: 'button', className: 'quiet', textContent: 'Dismiss', onclick: dismiss }));
  return made;
}

/** Returns a function that adds such a line to an element. */
export const refusals = (element) => (words) => element.append(refusalLine(words));

/** Do something and look again; what the gateway refuses stays on the page until it is dismissed. */
export const actions = (look, refuse) => async (work) => {
  try {
    await work();
    await look();
  } catch (fault) {
    refuse(fault.message);
  }
};

/** The first pages of a list: its entries, and `next`, if there are more. `ask(query)` requests one page of `name`. */
export async function firstPages(pages, name, wanted, ask) {
  const found = [];
  let next = '';
  for (let page = 0; page < pages && (next || !page); page += 1) {
    if (next) wanted.set('before', next);
    const answer = await ask(wanted);
    found.push(...answer[name]);
    next = answer.next ?? '';
  }
  return [found, next];
}

export const time = (iso) => h('time', { dateTime: iso, textContent: shortTime(iso), title: new Date(iso).toLocaleString([], { dateStyle: 'full', timeStyle: 'long' }) });

// ---- filters

/**
 * The fields of a form, kept in the fragment of the address: views can be shared. Calls `onChange` at news. Returns
 * a function to the parameters of a request, in which `since` is a time instead of hours.
 */
export function filters(form, onChange) {
  const named = () => [...form.elements].filter(({ name }) => name);
  const given = () => new URLSearchParams(location.hash.slice(1));
  const read = () => {
    for (const field of named()) {
      const value = given().get(field.name) ?? '';
      if (field.options && value && ![...field.options].some((option) => option.value === value)) field.append(h('option', { value, textContent: value }));
      field.value = value;
    }
  };
  form.oninput = () => {
    const wanted = new URLSearchParams();
    for (const { name, value } of named()) if (value.trim()) wanted.set(name, value.trim());
    history.replaceState(null, '', `#${wanted}`);
    onChange();
  };
  form.onsubmit = (event) => event.preventDefault();
  addEventListener('hashchange', () => (read(), onChange()));
  read();
  return () => {
    const wanted = given();
    const hours = Number(wanted.get('since'));
    if (hours) wanted.set('since', new Date(Date.now() - hours * 3_600_000).toISOString());
    return wanted;
  };
}

/** Add the agents that the key may use to the options of a field. */
export async function addAgents(field) {
  const known = new Set([...field.options].map(({ value }) => value));
  const agents = (await wire.json('/api/agents').catch(() => null)) ?? [];
  field.append(...agents.filter(({ name }) => !known.has(name)).map(({ name }) => h('option', { value: name, textContent: name })));
}

/** Where a session is read: the playground. */
export const sessionLink = (agent, session, properties) =>
  h('a', { href: `/playground?agent=${encodeURIComponent(agent)}#${encodeURIComponent(session)}`, textContent: session, title: session, ...properties });
