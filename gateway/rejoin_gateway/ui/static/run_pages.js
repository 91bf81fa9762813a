// The loaded part of a long list of runs, the newest first. A look reads the newest page, and the page of the first older run
// that is not finished: the pages between have only what no longer changes.

const PAGE = 50;
const BUSY = ['queued', 'running', 'suspended'];

export class RunPages {
  runs = [];
  more = '';
  #ask;
  #loading = null;

  /** `ask({ limit, before })` requests a page, `{ runs, next }`. */
  constructor(ask) {
    this.#ask = ask;
  }

  async refresh() {
    const newest = await this.#ask({ limit: PAGE });
    const last = newest.runs.at(-1)?.id ?? '';
    const isBehind = this.runs.length > 0 && newest.next && last > this.runs[0].id; // more new runs than a page has
    const older = newest.next && !isBehind ? this.runs.filter(({ id }) => id < last) : [];
    if (!older.length) this.more = newest.next ?? '';
    this.runs = [...newest.runs, ...older];
    const at = this.runs.findIndex(({ state }, place) => place >= newest.runs.length && BUSY.includes(state));
    if (at > 0) await this.#reread(this.runs[at - 1].id);
  }

  async #reread(before) {
    const { runs, next } = await this.#ask({ limit: PAGE, before });
    const last = next ? runs.at(-1).id : '';
    this.runs = [...this.runs.filter(({ id }) => id >= before), ...runs, ...this.runs.filter(({ id }) => id < before && id < last)];
  }

  /** Load the page behind the last one. A call while one is loading waits for that. */
  older() {
    this.#loading ??= this.#append().finally(() => (this.#loading = null));
    return this.#loading;
  }

  async #append() {
    if (!this.more) return;
    const before = this.more;
    const page = await this.#ask({ limit: PAGE, before });
    this.runs = [...this.runs.filter(({ id }) => id >= before), ...page.runs];
    this.more = page.next ?? '';
  }
}
