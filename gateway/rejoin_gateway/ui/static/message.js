// Messages as elements: text, reasoning, tool calls, files, data, sources. Unchanged parts keep their elements, and
// with them focus, selection and open state.

import { Calls } from './calls.js';
import { codeBlock, copyButton } from './code.js';
import { arrange, h, iconButton, Kept, write } from './dom.js';
import { failure } from './fold.js';
import { Shown } from './markdown.js';
import { dataCard, file, sourceList } from './parts.js';

/** `actions`: `{ waiting, decide, output, edit, regenerate, inspect }`; each may be missing. */
export class Messages {
  #kept = new Kept();
  #actions;
  #calls;

  constructor(actions = {}) {
    this.#actions = actions;
    this.#calls = new Calls(this.#kept, actions);
  }

  /** The element of a message. `busy`: it is incomplete, so screen readers wait until it is complete. */
  article(message, { busy = false, last = false, idle = true, run = '' } = {}) {
    const who = message.role === 'user' ? 'You' : 'Agent';
    const made = this.#kept.get(message.id, () => h('article', { className: message.role, 'aria-label': who }));
    made.ariaBusy = String(busy);
    const parts = message.parts.flatMap((part, at) => this.#part(message, part, `${message.id} ${at} ${part.type}`, { idle, run }));
    const status = message.status ?? (parts.length ? '' : '…'); // what happens now, which is not stored
    const waits = busy && status ? [this.#line(`${message.id} waits`, 'waits', status)] : [];
    const limit = message.metadata?.finishDetail; // why the answer ended early, in a sentence
    const end = limit ? [this.#line(`${message.id} end`, 'note', limit)] : [];
    arrange(made, [...parts, ...this.#sources(message), ...end, ...waits, ...this.#foot(message, { busy, last, idle, run })]);
    return made;
  }

  #part(message, part, key, state) {
    const fault = failure(part);
    if (fault) return this.#line(key, 'fault', fault);
    if (part.toolCallId) return this.#calls.element(part, key, state);
    switch (part.type) {
      case 'text':
        if (message.role === 'user') return this.#line(key, 'said', part.text);
        return part.text ? this.#kept.get(key, () => new Shown()).show(part.text) : [];
      case 'reasoning':
        return this.#thoughts(part, key);
      case 'file':
      case 'reasoning-file':
        return this.#kept.get(`${key} ${part.url.slice(-40)}`, () => file(part));
      case 'steering-message': // the user said it while the answer was made
        return [this.#kept.get(key, () => h('div', { className: 'user' },
          ...part.parts.flatMap((inner, at) => this.#part({ ...message, role: 'user' }, inner, `${key} ${at}`, state))))];
      case 'data-output': // a typed answer, as much of it as there is
        return this.#output(part, key);
      case 'note':
        return this.#line(key, 'note', part.text);
      case 'data-operation': // about the work itself: the inspector has these
        return [];
      default:
        return part.type.startsWith('data-') ? dataCard(part, key, this.#kept) : [];
    }
  }

  #line(key, className, text) {
    const made = this.#kept.get(key, () => h('p', { className }));
    write(made, text);
    return made;
  }

  #sources(message) {
    const count = message.role === 'assistant' ? message.parts.filter(({ type, citations }) => type.startsWith('source-') || citations?.length).length : 0;
    return count ? [this.#kept.get(`${message.id} sources ${count}`, () => sourceList(message.parts))] : [];
  }

  #output({ data }, key) {
    const made = this.#kept.get(key, () => codeBlock('', 'json', 'Typed answer'));
    if (made.data !== data) made.show(JSON.stringify(data, null, 2));
    made.data = data;
    made.lastChild.className = 'output';
    return made;
  }

  #thoughts(part, key) {
    const open = part.state === 'streaming';
    const made = this.#kept.get(key, () => h('details', { open }, h('summary'), h('p')));
    if (made.dataset.state === 'streaming' && !open) made.open = false;
    made.dataset.state = part.state;
    const { agent, text } = part.providerMetadata?.rejoin ?? {}; // text of a delegated agent
    if (text) write(made.firstChild, open ? `${agent} is writing…` : `${agent} said`);
    else write(made.firstChild, open ? 'Thinking…' : 'Thoughts');
    write(made.lastChild, part.text);
    return made;
  }

  #foot(message, { busy, last, idle, run }) {
    const { edit, regenerate, inspect } = this.#actions;
    if (!inspect) return [];
    const mine = message.role === 'user';
    const foot = this.#kept.get(`${message.id} foot`, () => {
      const change = mine ? iconButton('edit', 'Edit') : iconButton('again', 'Regenerate');
      return h('footer', {}, h('a', { textContent: 'Inspect', title: 'What the run did, event by event' }), copyButton(() => foot.text, 'Copy the message'), change);
    });
    const [link, copy, change] = foot.children;
    foot.text = message.parts.filter(({ type }) => type === 'text').map(({ text }) => text).join('\n\n');
    link.hidden = !run;
    link.href = inspect(run);
    copy.hidden = busy || !foot.text;
    change.hidden = !mine && !last;
    change.disabled = !idle;
    change.onclick = () => (mine ? edit(message) : regenerate(message));
    foot.hidden = busy && !run;
    return [foot];
  }
}
