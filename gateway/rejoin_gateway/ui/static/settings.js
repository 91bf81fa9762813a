// The settings: the visitor's key, and the request context of an agent as a form from its schema.

import { $, write } from './dom.js';
import { schemaForm } from './form.js';
import { wire } from './wire.js';

const CONTEXT = 'rejoin.context';

/** The saved context of an agent, `{ value, remember }`; null: none, or the agent takes none. */
export function savedContext({ name, contextSchema } = {}) {
  return contextSchema ? JSON.parse(localStorage.getItem(`${CONTEXT}.${name}`) ?? 'null') : null;
}

/** Whether an agent refuses messages without a context, and there is none. */
export const lacksContext = (agent) => Boolean(agent?.contextSchema?.required?.length) && !savedContext(agent);

/** `agent()` returns the agent that is chosen, as the gateway lists it. `onSave` is called after a change. */
export function settingsDialog(agent, onSave) {
  let form = null;
  let shown;
  let changed = false;

  function paint() {
    if (shown === agent()) return;
    shown = agent();
    changed = false;
    const { name, contextSchema } = shown ?? {};
    const saved = savedContext(shown);
    form = contextSchema ? schemaForm(contextSchema, saved?.value) : null;
    $('context').replaceChildren(...(form ? [form.element] : []));
    write($('context-note'), form ? `What the tools of ${name} get besides the message. With empty fields it gets none.` : 'This agent takes no context.');
    $('remember').checked = saved?.remember ?? false;
    $('remember').parentElement.hidden = !form;
  }

  /** False if a field cannot be read. */
  function save() {
    const fields = [...$('context').querySelectorAll('input, textarea')];
    if (changed && fields.length && fields.every((field) => !field.value)) localStorage.removeItem(`${CONTEXT}.${shown.name}`);
    else if (changed) {
      let value;
      try {
        value = form.read();
      } catch {
        return false; // the field says it
      }
      localStorage.setItem(`${CONTEXT}.${shown.name}`, JSON.stringify({ value, remember: $('remember').checked }));
    }
    wire.key = $('key').value.trim();
    return true;
  }

  function open() {
    $('key').value = wire.key;
    shown = undefined;
    paint();
    $('dialog').showModal();
  }

  $('context').oninput = $('remember').onchange = () => (changed = true);
  $('settings').onclick = open;
  $('settings-form').onsubmit = (event) => {
    if (event.submitter?.value !== 'save') return;
    if (save()) onSave();
    else event.preventDefault();
  };
  return { open, paint: () => $('dialog').open && paint() };
}
