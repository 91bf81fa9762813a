// Messages as elements: text, reasoning, tool calls, files, approvals. Unchanged parts keep their elements, and
// with them focus, selection and open state.

import { arrange, h, Kept, write } from './dom.js';
import { failure } from './fold.js';
import { SAFE, Shown } from './markdown.js';
import { wire } from './wire.js';

const STATES = {
  'input-streaming': 'preparing', 'input-available': 'running', 'approval-requested': 'waits for you',
  'output-available': 'done', 'output-error': 'failed', 'output-denied': 'denied',
};
const json = (value) => (typeof value === 'string' ? value : JSON.stringify(value, null, 1)?.replace(/\n\s*/g, ' ') ?? '');

/** `actions`: `{ decide, edit, regenerate, inspect }`; each may be missing. */
export class Messages {
  #kept = new Kept();
  #actions;

  constructor(actions = {}) {
    this.#actions = actions;
  }

  /** The element of a message. `busy`: it is incomplete, so screen readers wait until it is complete. */
  article(message, { busy = false, last = false, idle = true, run = '' } = {}) {
    const who = message.role === 'user' ? 'You' : 'Agent';
    const made = this.#kept.get(message.id, () => h('article', { className: message.role, 'aria-label': who }));
    made.ariaBusy = String(busy);
    const parts = message.parts.flatMap((part, at) => this.#part(message, part, `${message.id} ${at} ${part.type}`, idle));
    const waits = busy && !parts.length ? [this.#kept.get(`${message.id} waits`, () => h('p', { className: 'waits', textContent: '…' }))] : [];
    const limit = message.metadata?.finishDetail; // why the answer ended early, in a sentence
    const end = limit ? [this.#line(`${message.id} end`, 'note', limit)] : [];
    arrange(made, [...parts, ...end, ...waits, ...this.#foot(message, { busy, last, idle, run })]);
    return made;
  }

  #part(message, part, key, idle) {
    const fault = failure(part);
    if (fault) return this.#line(key, 'fault', fault);
    if (part.toolCallId) return this.#tool(message, part, key, idle);
    switch (part.type) {
      case 'text':
        if (message.role === 'user') return this.#line(key, 'said', part.text);
        return part.text ? this.#kept.get(key, () => new Shown()).show(part.text) : [];
      case 'reasoning':
        return this.#thoughts(part, key);
      case 'file':
        return this.#file(part, `${key} ${part.url.slice(-40)}`);
      case 'steering-message': // the user said it while the answer was made
        return [this.#kept.get(key, () => h('div', { className: 'user' },
          ...part.parts.flatMap((inner, at) => this.#part({ ...message, role: 'user' }, inner, `${key} ${at}`, idle))))];
      case 'data-output': // a typed answer, as much of it as there is
        return this.#output(part, key);
      case 'note':
        return this.#line(key, 'note', part.text);
      case 'source-url':
        if (!SAFE.test(part.url)) return this.#line(key, 'source', part.title ?? part.url);
        return this.#kept.get(key, () => h('a', { className: 'source', href: part.url, target: '_blank', rel: 'noopener noreferrer' }, part.title ?? part.url));
      default:
        return [];
    }
  }

  #line(key, className, text) {
    const made = this.#kept.get(key, () => h('p', { className }));
    write(made, text);
    return made;
  }

  #output(part, key) {
    const made = this.#kept.get(key, () => h('pre', { className: 'output' }));
    write(made, JSON.stringify(part.data, null, 2));
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

  #file(part, key) {
    return this.#kept.get(key, () => {
      const name = part.filename ?? part.mediaType;
      if (!part.mediaType.startsWith('image/')) return h('p', { className: 'file', textContent: name });
      const image = h('img', { alt: part.filename ?? 'An attached image', className: 'file' });
      if (part.url.startsWith('data:')) image.src = part.url;
      else load(part.url).then((url) => (image.src = url), () => image.replaceWith(name));
      return image;
    });
  }

  #tool(message, part, key, idle) {
    const name = part.toolName ?? part.type.slice(5);
    const made = this.#kept.get(key, () =>
      h('section', { className: 'tool', tabIndex: -1, 'aria-label': `Tool ${name}` },
        h('header', {}, h('code', { textContent: name }), h('span', { className: 'badge' })),
        h('dl', {}, h('dt', { textContent: 'input' }), h('dd'), h('dt', { textContent: 'output' }), h('dd')),
        h('div', { className: 'ask', role: 'group', 'aria-label': `Allow ${name}?` },
          h('span', { textContent: 'May it do this?' }), h('button', { textContent: 'Deny' }),
          h('button', { className: 'strong', textContent: 'Approve' }))));
    const [head, list, question] = made.children;
    const [, input, outputName, output] = list.children;
    made.dataset.state = part.state;
    write(head.lastChild, STATES[part.state] ?? (part.approval?.approved ? 'approved' : 'denied'));
    write(input, json(part.input ?? part.rawInput));
    write(output, part.errorText ?? json(part.output));
    output.hidden = outputName.hidden = !output.textContent;
    question.hidden = part.state !== 'approval-requested' || !this.#actions.decide;
    [...question.querySelectorAll('button')].forEach((button, approved) => {
      button.disabled = !idle;
      button.onclick = () => (made.focus(), this.#actions.decide(message, part, Boolean(approved)));
    });
    return made;
  }

  #foot(message, { busy, last, idle, run }) {
    const { edit, regenerate, inspect } = this.#actions;
    if (!inspect) return [];
    const foot = this.#kept.get(`${message.id} foot`, () =>
      h('footer', {}, h('a', { textContent: 'Inspect' }), h('button', { className: 'quiet' })));
    const [link, button] = foot.children;
    link.hidden = !run;
    link.href = inspect(run);
    const mine = message.role === 'user';
    write(button, mine ? 'Edit' : 'Regenerate');
    button.hidden = !mine && !last;
    button.disabled = !idle;
    button.onclick = () => (mine ? edit(message) : regenerate(message));
    foot.hidden = busy && !run;
    return [foot];
  }
}

/** A stored file, fetched with the visitor's key: without signing keys its URL is not signed, and an `<img>` cannot
 * send the key. It comes from this page's own gateway, the only host that the page's policy allows. */
async function load(url) {
  const response = await wire.fetch(url.slice(Math.max(0, url.indexOf('/api/files/'))));
  if (!response.ok) throw new Error(`the file answered ${response.status}`);
  return URL.createObjectURL(await response.blob());
}
