// Stacked bars over time as SVG by a few lines, with a title, a description, and the same figures as a table below.

import { h } from './dom.js';

const SVG = 'http://www.w3.org/2000/svg';
const WIDTH = 600;
const HEIGHT = 120;
export const COLORS = 6; // classes c0 … c5 in overview.css

function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** The next of 1, 2, 5, 10, 20 … that is not below a value. */
function roundUp(value) {
  const ten = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 5, 10].map((step) => step * ten).find((bound) => bound >= value) ?? ten * 10;
}

/**
 * Stacked bars. `columns`: `{ label, values }`, one value for each of `names`; `format(value)` writes one. The bars
 * have tooltips, the figures stand in a table that can be opened.
 */
export function bars({ title, names, columns, format = String }) {
  const totals = columns.map(({ values }) => values.reduce((sum, value) => sum + value, 0));
  const top = roundUp(Math.max(...totals, 0));
  const step = WIDTH / Math.max(columns.length, 1);
  const y = (value) => HEIGHT - (value / top) * HEIGHT;
  const drawn = columns.map(({ label, values }, at) => {
    let sum = 0;
    const parts = values.map((value, kind) => {
      const rect = s('rect', { x: at * step + step * 0.12, width: step * 0.76, y: y(sum + value), height: y(sum) - y(sum + value), class: `c${kind % COLORS}` });
      sum += value;
      return value ? [rect] : [];
    });
    const words = names.map((name, kind) => `${name}: ${format(values[kind])}`).filter((_, kind) => values[kind]);
    const hover = s('rect', { x: at * step, width: step, y: 0, height: HEIGHT, class: 'hover' });
    return s('g', {}, s('title', {}, `${label}\n${words.join('\n') || 'nothing'}`), hover, ...parts.flat());
  });
  const total = totals.reduce((sum, value) => sum + value, 0);
  const said = `${title}: ${format(total)} together, from ${columns[0]?.label ?? ''} to ${columns.at(-1)?.label ?? ''}.`;
  return figure(title, said, [...grid(), ...drawn], format(top), columns.map(({ label }) => label), legend(names), table(names, columns, format));
}

const grid = () => [0.5, HEIGHT - 0.5].map((y) => s('line', { class: 'grid', x1: 0, x2: WIDTH, y1: y, y2: y }));

/** Words beside the drawing, in the size of the page: the drawing is as wide as its place. */
const ends = (labels) => h('p', { className: 'ends', 'aria-hidden': 'true' }, ...labels.map((label) => h('span', { textContent: label })));

function legend(names) {
  const shown = names.map((name, at) => h('span', {}, h('i', { className: `c${at % COLORS}` }), name));
  return names.length > 1 ? [h('p', { className: 'legend small', 'aria-hidden': 'true' }, ...shown)] : [];
}

let count = 0;

function figure(title, said, drawn, top, labels, below, figures) {
  const id = `chart-${(count += 1)}`;
  const svg = s('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-labelledby': `${id}-title ${id}-desc` },
    s('title', { id: `${id}-title` }, title), s('desc', { id: `${id}-desc` }, said), ...drawn);
  return h('figure', {}, h('figcaption', { textContent: title }), ends([top]), svg, ends([labels[0] ?? '', labels.at(-1) ?? '']), ...below,
    h('details', {}, h('summary', { className: 'small', textContent: 'Figures' }), h('div', { className: 'wide', tabIndex: 0, role: 'region', 'aria-label': `Figures of ${title}` }, figures)));
}

function table(names, columns, format) {
  const cells = (kind, values) => values.map((value) => h(kind, kind === 'th' ? { scope: 'col', textContent: value } : { textContent: value }));
  return h('table', { className: 'list' },
    h('thead', {}, h('tr', {}, ...cells('th', ['Time', ...names]))),
    h('tbody', {}, ...columns.map(({ label, values }) => h('tr', {}, h('th', { scope: 'row', textContent: label }), ...cells('td', values.map(format))))));
}
