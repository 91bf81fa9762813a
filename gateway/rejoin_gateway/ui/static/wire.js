// The network of this page: the visitor's key on every request, and a plug that can be pulled.

import { Answer, Refused } from './rejoin.js';

const KEY = 'rejoin.key';

class Wire extends EventTarget {
  /** Who is asked, unless a request says otherwise. */
  agent = '';
  #cut = false;
  #plug = new AbortController();

  get key() {
    return localStorage.getItem(KEY) ?? '';
  }

  set key(key) {
    if (key) localStorage.setItem(KEY, key);
    else localStorage.removeItem(KEY);
  }

  get cut() {
    return this.#cut;
  }

  /** While it is cut, no request of this page reaches anybody, and those under way break. */
  set cut(cut) {
    this.#cut = cut;
    if (cut) this.#plug.abort();
    else dispatchEvent(new Event('online')); // whoever waits for the network need not wait longer
    this.dispatchEvent(new Event('change'));
  }

  fetch = async (path, { headers, signal, ...init } = {}) => {
    if (this.#cut) throw new TypeError('the connection is cut');
    if (this.#plug.signal.aborted) this.#plug = new AbortController();
    const plug = this.#plug.signal;
    const key = this.key;
    const all = { ...(key && { authorization: `Bearer ${key}` }), ...(this.agent && { 'x-agent-id': this.agent }), ...headers };
    const both = signal ? AbortSignal.any([signal, plug]) : plug;
    return fetch(path, { cache: 'no-store', ...init, headers: all, signal: both });
  };

  /** JSON, or null where there is nothing. Waits for a network that is away; throws `Refused`. */
  async json(path, init = {}) {
    const answer = new Answer({ open: (signal) => this.fetch(path, { ...init, signal }), resume: () => null });
    try {
      return await answer.json();
    } catch (fault) {
      if (fault instanceof Refused && fault.status === 404) return null;
      throw fault;
    }
  }

  post(path, body, headers = {}) {
    const asked = { method: 'POST', body: JSON.stringify(body) };
    return (signal) => this.fetch(path, { ...asked, headers: { 'content-type': 'application/json', ...headers }, signal });
  }
}

export const wire = new Wire();
