// Two runs beside each other: their key figures in one table, and their timelines on one scale.

import { $, arrange, h, write } from './dom.js';
import { paintTimeline, Run } from './run.js';
import { drawnLength, facts } from './timeline.js';

/** Show the runs with these ids, and follow them. */
export async function compare(ids) {
  const runs = ids.map((id) => new Run(id));
  for (const section of document.querySelectorAll('main > section, #summary')) section.hidden = section.id !== 'compared';
  document.title = `${ids.join(' and ')} · Rejoin`;
  write($('run'), ids[0]);
  const columns = runs.map(({ id }) => h('section', { 'aria-label': `Timeline of ${id}` }, h('h2', {}, h('a', { href: `/inspect#${id}`, textContent: id })), h('p', { className: 'small' }), h('ol', { className: 'timeline' })));
  $('timelines').replaceChildren(...columns);
  const paint = () => {
    if (runs.some(({ state }) => !state)) return; // one of them is not read yet
    paintFacts(runs);
    const whole = Math.max(...runs.map(({ list }) => drawnLength(list)));
    runs.forEach((run, at) => {
      const [, whose, timeline] = columns[at].children;
      write(whose, `${run.agent}, ${new Date(run.createdAt).toLocaleString()}`);
      paintTimeline(timeline, run, { whole });
    });
    document.querySelector('.brand').href = `/playground#${encodeURIComponent(runs[0].session)}`;
  };
  await Promise.all(runs.map((run) => run.follow(paint)));
}

/** One row for each figure. Those in which the runs differ are marked. */
function paintFacts(runs) {
  const [first, second] = runs.map((run) => new Map(facts(run)));
  const names = [...new Set([...first.keys(), ...second.keys()])];
  const rows = names.map((name) => {
    const values = [first.get(name) ?? '–', second.get(name) ?? '–'];
    return h('tr', { className: values[0] === values[1] ? '' : 'differs' }, h('th', { scope: 'row', textContent: name }), ...values.map((value) => h('td', { textContent: value })));
  });
  const heads = runs.map(({ id }) => h('th', { scope: 'col', title: id, textContent: `…${id.slice(-8)}` }));
  arrange($('figures'), [h('thead', {}, h('tr', {}, h('td'), ...heads)), h('tbody', {}, ...rows)]);
}
