// One run's log, read page by page and followed while the run is active; and the lines of its timeline as elements.

import { arrange, h } from './dom.js';
import { drawnLength, events, lines, scale } from './timeline.js';
import { duration } from './times.js';
import { wire } from './wire.js';

const LOOK_MS = 1_000;
const OVER = ['completed', 'failed', 'cancelled'];
const SVG = 'http://www.w3.org/2000/svg';

export class Run {
  records = [];
  list = []; // its events, see `timeline.js`
  answers = []; // what was answered while the run waits for more: the log has it later
  decisions = new Map(); // approval → `{ by, at }`
  state = '';
  #after = 0;

  constructor(id) {
    this.id = id;
  }

  /** Read new records; false if there are none. */
  async read() {
    for (let news = false; ; news = true) {
      const page = await wire.json(`/run/api/executions/${this.id}/log?after=${this.#after}`);
      if (!page) throw new Error(`There is no run ${this.id}, or it is not yours.`);
      const { answers = [], decisions = [] } = page;
      const changed = page.state !== this.state || page.records.length > 0 || answers.length !== this.answers.length;
      Object.assign(this, { answers, state: page.state, errorCode: page.errorCode, createdAt: page.createdAt, session: page.conversationId, agent: page.agentId, answer: page.messageId });
      for (const { approvalId, ...decision } of decisions) this.decisions.set(approvalId, decision);
      this.records.push(...page.records);
      this.#after = page.records.at(-1)?.sequence ?? this.#after;
      if (changed) this.list = events(this.records, this.createdAt);
      if (!page.next) return news || changed;
    }
  }

  get isBusy() {
    return ['queued', 'running'].includes(this.state);
  }

  /** Read until the run is over or `signal` aborts. `onNews` is called after a change. */
  async follow(onNews, signal) {
    while (!signal?.aborted) {
      if (await this.read()) await onNews();
      if (OVER.includes(this.state)) return;
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }

  /** The lines of its timeline, with what was answered meanwhile. */
  get lines() {
    const last = this.list.at(-1);
    return lines([...this.list, ...this.answers.map((chunk) => ({ ...last, chunk }))], this.records, this.createdAt, this.decisions);
  }
}

/** Draw a run's timeline. `choose` is called with the number of events to the end of a chosen line; `below(line)` returns
 * what stands below a line. `whole`: the drawn length of the longest timeline beside it. */
export function paintTimeline(element, run, { choose, below = () => [], whole = drawnLength(run.list) }) {
  const drawn = scale(run.list, whole);
  arrange(element, run.lines.map((line) => {
    const label = h('span', { className: 'label', textContent: line.label });
    const detail = h('span', { className: 'detail', textContent: line.detail, title: line.detail });
    const span = h('span', { className: 'span', textContent: line.to > line.from ? duration(line.to - line.from) : `at ${duration(line.from)}` });
    const track = h('span', { className: 'track' }, bar(drawn(line.from), drawn(line.to)));
    const row = choose ? h('button', { onclick: () => choose(line.last + 1) }) : h('div', { className: 'line' });
    row.append(label, detail, track, span);
    const kind = line.kind === 'tool' ? 'tool-line' : line.kind;
    return h('li', { className: `${kind}${line.void ? ' void' : ''}` }, row, ...below(line));
  }));
}

function bar(from, to) {
  const svg = document.createElementNS(SVG, 'svg');
  const rect = document.createElementNS(SVG, 'rect');
  const width = Math.max((to - from) * 100, 0.8);
  const place = { x: `${Math.min(from * 100, 99.2)}%`, y: '15%', width: `${width}%`, height: '70%' };
  for (const [name, value] of Object.entries(place)) rect.setAttribute(name, value);
  svg.append(rect);
  svg.setAttribute('aria-hidden', 'true');
  return svg;
}
