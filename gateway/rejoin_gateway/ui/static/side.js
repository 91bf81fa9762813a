// The list of sessions by their first words, the last changed first.

import { $, arrange, h, iconButton, Kept, write } from './dom.js';
import { shortTime } from './times.js';
import { wire } from './wire.js';

const LOOK_MS = 5_000;
const PAGE = 30;

export class Side {
  #kept = new Kept();
  #pages = 1;
  #seen = new Map();
  #current;
  #onNews;

  /** `current()` returns the shown id; `onNews` is called when that session was changed elsewhere. */
  constructor(current, onNews) {
    this.#current = current;
    this.#onNews = onNews;
    $('more').onclick = () => {
      this.#pages += 1;
      this.look();
    };
    setInterval(() => document.hidden || wire.cut || this.look(), LOOK_MS);
  }

  /** Load the list and show it. */
  async look() {
    const found = [];
    let next = '';
    try {
      for (let page = 0; page < this.#pages; page += 1) {
        const response = await wire.fetch(`/run/v1/conversations?limit=${PAGE}${next && `&before=${encodeURIComponent(next)}`}`);
        if (!response.ok) return;
        const answer = await response.json();
        found.push(...answer.data);
        next = answer.next ?? '';
        if (!next) break;
      }
    } catch {
      return; // the next call tries again
    }
    $('more').hidden = !next;
    $('no-sessions').hidden = found.length > 0;
    arrange($('sessions'), found.map((one) => this.#line(one)));
    this.mark();
    const current = found.find(({ id }) => id === this.#current());
    if (current) this.#compare(current);
  }

  /** Highlight the session that is shown. */
  mark() {
    const current = `#${encodeURIComponent(this.#current() ?? '')}`;
    for (const link of $('sessions').querySelectorAll('a')) {
      if (link.hash === current) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
  }

  #compare({ id, updatedAt }) {
    const known = this.#seen.get(id);
    this.#seen.set(id, updatedAt);
    if (known && known !== updatedAt) this.#onNews();
  }

  #line({ id, title, agentId, active, createdAt, updatedAt }) {
    const name = title?.trim() || `Without words, ${shortTime(createdAt)}`; // a file alone
    const made = this.#kept.get(id, () => h('li', {}, h('a', { href: `#${encodeURIComponent(id)}` }, h('span'), h('small')), iconButton('remove', 'Delete')));
    const [link, remove] = made.children;
    write(link.firstChild, name);
    link.title = `${name}\n${agentId}, ${new Date(updatedAt).toLocaleString()}`;
    write(link.lastChild, `${active ? 'answering' : shortTime(updatedAt)} · ${agentId}`);
    link.classList.toggle('active', active);
    remove.setAttribute('aria-label', `Delete ${name}`);
    remove.onclick = () => confirm(`Delete “${name}”?`) && this.#remove(id, agentId);
    return made;
  }

  async #remove(id, agent) {
    const path = `/api/agents/${encodeURIComponent(agent)}/${encodeURIComponent(id)}`;
    await wire.json(path, { method: 'DELETE' }).catch(() => null);
    if (id === this.#current()) location.hash = '';
    await this.look();
  }
}
