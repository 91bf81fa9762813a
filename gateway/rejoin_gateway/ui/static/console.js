// What the console's pages share: looking again and again, the form for a key, times, filters in the address.

import { $, h, themeSwitch, write } from './dom.js';
import { wire } from './wire.js';

const LOOK_MS = 3_000;
const DAY_MS = 86_400_000;

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

/** Send a change. Returns its JSON; throws an error with the gateway's words. */
export async function change(path, body = {}, method = 'POST') {
  const response = await wire.fetch(path, { method, body: JSON.stringify(body), headers: { 'content-type': 'application/json' } });
  const said = await response.json().catch(() => ({}));
  if (response.ok) return said;
  const { detail, message, error } = said;
  const words = [detail, message, error?.message, error].find((one) => typeof one === 'string');
  throw Object.assign(new Error(words ?? `The gateway answered ${response.status}.`), { status: response.status });
}

/** What the gateway refused stays in an element until it is dismissed. Returns a function that adds words. */
export const refusals = (element) => (words) => {
  const made = h('span', { className: 'refusal' }, h('span', { textContent: words }),
    h('button', { type: 'button', className: 'quiet', textContent: 'Dismiss', onclick: () => made.remove() }));
  element.append(made);
};

/** Do something and look again; what the gateway refuses stays on the page until it is dismissed. */
export const actions = (look, refuse) => async (work) => {
  try {
    await work();
    await look();
  } catch (fault) {
    refuse(fault.message);
  }
};

// ---- times

/** A moment in the reader's zone: the time alone if it is of today. */
export function moment(iso) {
  const at = new Date(iso);
  const isToday = at.toDateString() === new Date().toDateString();
  const hour = { hour: '2-digit', minute: '2-digit', second: '2-digit' };
  const day = { month: 'short', day: 'numeric', ...(at.getFullYear() !== new Date().getFullYear() && { year: 'numeric' }) };
  return isToday ? at.toLocaleTimeString([], hour) : at.toLocaleString([], { ...day, hour: '2-digit', minute: '2-digit' });
}

export const time = (iso) => h('time', { dateTime: iso, textContent: moment(iso), title: new Date(iso).toLocaleString([], { dateStyle: 'full', timeStyle: 'long' }) });

/** A span of time in one or two units; timeline.js has one for fractions of seconds. */
export function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  const units = [[DAY_MS / 1000, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const at = Math.max(0, units.findIndex(([size]) => s >= size));
  if (s === 0) return 'now';
  const [size, name] = units[at];
  const rest = Math.floor((s % size) / (units[at + 1]?.[0] ?? 1));
  return `${Math.floor(s / size)} ${name}${units[at + 1] && rest ? ` ${rest} ${units[at + 1][1]}` : ''}`;
}

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
