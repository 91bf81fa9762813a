// All requests of a page: adds the visitor's key, and can simulate a lost connection.

import { Answer, Refused } from './answer.js';

const KEY = 'rejoin.key';

class Wire extends EventTarget {
  /** The agent of requests that name none. */
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

  /** While cut, new requests fail and open ones are aborted. */
  set cut(cut) {
    this.#cut = cut;
    if (cut) this.#plug.abort();
    else dispatchEvent(new Event('online')); // ends the waits for the network
    this.dispatchEvent(new Event('change'));
  }

  fetch = async (path, { headers, signal, ...init } = {}) => {
    if (this.#cut) throw new TypeError('the connection is cut');
    if (this.#plug.signal.aborted) this.#plug = new AbortController();
    const plug = this.#plug.signal;
    const key = this.key;
    const all = { ...(key && { authorization: `Bearer ${key}` }), ...(this.agent && { 'x-agent-id': this.agent }), ...headers };
    const combined = signal ? AbortSignal.any([signal, plug]) : plug;
    return fetch(path, { cache: 'no-store', ...init, headers: all, signal: combined });
  };

  /** The JSON response, null for 404. Retries while the gateway cannot be reached; throws `Refused`. */
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
    const request = { method: 'POST', body: JSON.stringify(body) };
    return (signal) => this.fetch(path, { ...request, headers: { 'content-type': 'application/json', ...headers }, signal });
  }
}

export const wire = new Wire();
