// A tool call as an element: what it was given, what came of it, and what it waits for: a decision, perhaps with
// other arguments, or the output of a tool that the client runs.

import { h, write } from './dom.js';
import { schemaForm } from './form.js';

const STATES = {
  'input-streaming': 'preparing', 'input-available': 'running', 'approval-requested': 'waits for you',
  'output-available': 'done', 'output-error': 'failed', 'output-denied': 'denied',
};
const json = (value) => (typeof value === 'string' ? value : JSON.stringify(value, null, 1)?.replace(/\n\s*/g, ' ') ?? '');
const fault = () => h('p', { className: 'wrong', role: 'alert' });
const text = (label, placeholder) => h('input', { 'aria-label': label, placeholder, autocomplete: 'off' });
const button = (name, onclick, more = {}) => h('button', { type: 'button', textContent: name, onclick, ...more });

/** Whether a client answers the call, and has not yet. */
export const waitsForOutput = ({ state, callProviderMetadata }) => state === 'input-available' && callProviderMetadata?.rejoin?.client === true;

/** `actions`: `{ waiting(run), decide(run, part, decision), output(run, part, given) }`; without them nothing can be
 * answered. */
export class Calls {
  #kept;
  #actions;

  constructor(kept, actions) {
    this.#kept = kept;
    this.#actions = actions;
  }

  /** The element of a call. `idle`: it can be answered now. */
  element(part, key, { idle, run }) {
    const name = part.toolName ?? part.type.slice(5);
    const made = this.#kept.get(key, () =>
      h('section', { className: 'tool', tabIndex: -1, 'aria-label': `Tool ${name}` },
        h('header', {}, h('code', { textContent: name }), h('span', { className: 'badge' })), h('dl')));
    const isAsked = part.state === 'approval-requested';
    const waits = isAsked || waitsForOutput(part);
    made.dataset.state = waits ? 'approval-requested' : part.state;
    write(made.querySelector('.badge'), STATES[made.dataset.state] ?? (part.approval?.approved ? 'approved' : 'denied'));
    this.#facts(made.children[1], part, key);
    const asked = waits && run && this.#actions.decide
      ? this.#kept.get(`${key} waits ${part.state}`, () => (isAsked ? this.#approval(made, part, name, run) : this.#output(made, part, name, run))) : null;
    const shown = made.children[2] ?? null;
    if (shown !== asked) {
      shown?.remove();
      made.append(...(asked ? [asked] : []));
    }
    for (const control of asked?.querySelectorAll('button') ?? []) control.disabled = !idle;
    if (asked && idle) this.#learn(asked, part, run);
    return made;
  }

  #facts(list, part, key) {
    const { edit } = part.callProviderMetadata?.rejoin ?? {};
    const { approved, reason } = part.approval ?? {};
    const decision = approved !== undefined && (reason || edit) ? `${approved ? 'approved' : 'denied'}${edit?.by ? ` by ${edit.by}` : ''}${reason ? `: ${reason}` : ''}` : '';
    const rows = { input: json(part.input ?? part.rawInput), 'asked for': edit ? json(edit.shownInput) : '', decision, output: part.errorText ?? json(part.output) };
    for (const [name, value] of Object.entries(rows)) {
      const [title, shown] = this.#kept.get(`${key} ${name}`, () => {
        const pair = [h('dt', { textContent: name }), h('dd')];
        list.append(...pair);
        return pair;
      });
      write(shown, value);
      shown.hidden = title.hidden = name !== 'input' && !value;
    }
  }

  /** Ask once what the call must be answered with: the schema of its output, or of its arguments. */
  async #learn(asked, { toolCallId }, run) {
    if (asked.isLearning) return;
    asked.isLearning = true;
    const { pendingApprovals = [], pendingToolOutputs = [] } = (await this.#actions.waiting(run)) ?? {};
    const mine = [...pendingApprovals, ...pendingToolOutputs].find((one) => one.toolCallId === toolCallId);
    if (mine) asked.learn(mine);
    else asked.isLearning = false; // the gateway could not be asked, or does not have the call yet
  }

  /** The controls of an approval. Arguments can be changed where the tool allows it. */
  #approval(made, part, name, run) {
    const reason = text(`Reason for the decision about ${name}`, 'Reason');
    const wrong = fault();
    const place = h('div', { className: 'edits', hidden: true });
    let form;
    const decide = (approved) => answer(made, form, wrong, '/input', () => {
      const said = reason.value.trim();
      const changed = approved && form && !place.hidden ? { input: form.read() } : {};
      return this.#actions.decide(run, part, { approved, ...(said && { reason: said }), ...changed });
    });
    const change = button('Change', () => {
      place.hidden = !place.hidden;
      write(change, place.hidden ? 'Change' : 'As asked');
      if (place.hidden) return;
      place.querySelector('input, textarea, select')?.focus({ preventScroll: true });
      made.scrollIntoView({ block: 'nearest' });
    }, { 'aria-label': `Change the arguments of ${name}`, hidden: true });
    const learn = ({ input, inputSchema }) => {
      if (!inputSchema) return;
      form = schemaForm(inputSchema, input, `argument of ${name}`);
      place.append(form.element);
      change.hidden = false;
    };
    return h('div', { className: 'ask', role: 'group', 'aria-label': `Allow ${name}?`, learn }, place, wrong, h('span', { textContent: 'May it do this?' }), reason, change,
      button('Deny', () => decide(false)), button('Approve', () => decide(true), { className: 'strong' }));
  }

  /** The form of a client tool's output. */
  #output(made, part, name, run) {
    const failure = text(`Why ${name} failed`, 'Why it failed');
    const wrong = fault();
    const fields = h('div', { className: 'edits' });
    let form;
    const give = (read) => answer(made, form, wrong, '/output', () => this.#actions.output(run, part, read()));
    const learn = ({ outputSchema }) => {
      form = schemaForm(outputSchema, undefined, `output of ${name}`);
      fields.append(h('p', { className: 'small', textContent: 'This tool runs in the client. Answer in its place:' }), form.element);
      made.scrollIntoView({ block: 'nearest' });
    };
    const onsubmit = (event) => (event.preventDefault(), form && give(() => ({ output: form.read() ?? null })));
    return h('form', { className: 'ask', 'aria-label': `Answer ${name}`, learn, onsubmit }, fields, wrong,
      h('details', {}, h('summary', { textContent: 'It failed' }), failure, button('Send the failure', () => give(() => ({ errorText: failure.value.trim() || 'the tool failed' })))),
      h('button', { className: 'strong', textContent: 'Send the output' }));
  }
}

/** Send an answer. An error of the gateway is shown at the field that it names, or else in `wrong`; the form shows its
 * own. */
async function answer(made, form, wrong, root, send) {
  try {
    const sent = send();
    made.focus(); // the buttons go
    await sent;
  } catch ({ name, message, pointer = '' }) {
    const isShown = name !== 'Refused' || (pointer.startsWith(root) && form?.show(pointer.slice(root.length), message));
    write(wrong, isShown ? '' : message);
  }
}
