// Markdown as elements: the subset that models write. Text never becomes markup, and images are never loaded.

import { codeBlock } from './code.js';
import { h } from './dom.js';

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const DIVIDER = /^\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?$/; // of a trimmed line
const HEADING = /^ {0,3}(#{1,6})\s(.*)$/;
export const SAFE = /^(https?:|mailto:)/i;
const DEPTH_MAX = 16; // quotes in quotes, lists in lists, bold in italic: what is deeper is shown as it is written
const SPANS_MAX = 5_000; // of one paragraph; the rest is shown as it is written
const INLINE = new RegExp( // each span has an end: a text of many beginnings would take the square of its length
  [
    '(?<!`)(?<ticks>`{1,9})(?!`)(?<code>.{1,500}?)(?<!`)\\k<ticks>(?!`)',
    '\\*\\*(?<bold>(?=\\S).{1,500}?)\\*\\*',
    '(?<![\\w*])\\*(?<slant>(?=[^\\s*]).{0,500}?)\\*(?!\\*)|(?<!\\w)_(?<slant2>(?=[^\\s_]).{0,500}?)_(?!\\w)',
    '~~(?<gone>.{1,500}?)~~',
    '!?\\[(?<label>[^\\]]{0,300})\\]\\((?<to>[^\\s)]{1,1000})(?:\\s{1,9}"[^"]{0,500}")?\\)',
    '(?<bare>https?://[^\\s<>"]{0,2000}[^\\s<>".,;:!?)\\]])',
    '\\\\(?<escaped>[\\\\`*_{}\\[\\]()#+.!~|-])',
  ].join('|'),
  's',
);

/** The blocks of a text: `{ kind, lines, … }`, each with its `raw` lines. */
export function blocks(text) {
  const lines = text.replaceAll('\r\n', '\n').split('\n');
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const began = at;
    const block = begin(lines, at);
    at = block.end;
    found.push({ ...block, raw: lines.slice(began, at).join('\n') });
  }
  return found;
}

function begin(lines, at) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return { kind: 'heading', level: heading[1].length, lines: [withoutEnd(heading[2].trim(), '#').trimEnd()], end: at + 1 };
  if (RULE.test(line)) return { kind: 'rule', lines: [], end: at + 1 };
  if (line.includes('|') && DIVIDER.test((lines[at + 1] ?? '').trim())) return run(lines, at, 'table', (one) => one.includes('|'));
  if (/^\s*>/.test(line)) return run(lines, at, 'quote', (one) => /^\s*>/.test(one));
  if (ITEM.test(line)) return run(lines, at, 'list', (one) => ITEM.test(one) || /^\s{2,}\S/.test(one));
  return run(lines, at, 'paragraph', (one) => one.trim() && !FENCE.test(one) && !HEADING.test(one) && !ITEM.test(one) && !RULE.test(one));
}

function withoutEnd(text, char) {
  let end = text.length;
  while (end && text[end - 1] === char) end -= 1;
  return text.slice(0, end);
}

function run(lines, at, kind, goesOn) {
  let end = at + 1;
  while (end < lines.length && goesOn(lines[end])) end += 1;
  return { kind, lines: lines.slice(at, end), end };
}

/** A code fence. It need not be closed: the text may still grow. */
function fenced(lines, at, [, fence, language]) {
  let end = at + 1;
  while (end < lines.length && !new RegExp(`^ {0,3}${fence[0]}{${fence.length},}\\s*$`).test(lines[end])) end += 1;
  return { kind: 'code', language, lines: lines.slice(at + 1, end), end: Math.min(end + 1, lines.length) };
}

/** The element of a block. `depth`: how many blocks it is in. */
export function element(block, depth = 0) {
  if (depth >= DEPTH_MAX) return h('p', { textContent: block.lines.join('\n') });
  switch (block.kind) {
    case 'code':
      return codeBlock(block.lines.join('\n'), block.language);
    case 'heading':
      return h(`h${Math.min(block.level + 2, 6)}`, {}, ...inline(block.lines[0]));
    case 'rule':
      return h('hr');
    case 'quote':
      return h('blockquote', {}, ...blocks(block.lines.map((line) => line.replace(/^\s*> ?/, '')).join('\n')).map((inner) => element(inner, depth + 1)));
    case 'list':
      return list(block.lines, depth);
    case 'table':
      return table(block.lines);
    default:
      return h('p', {}, ...inline(block.lines.join('\n')));
  }
}

function list(lines, depth) {
  const [, indent, bullet] = ITEM.exec(lines[0]);
  const ordered = /\d/.test(bullet);
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent.length) items.push({ text: item[3], below: [] });
    else items.at(-1).below.push(line);
  }
  const made = items.map(({ text, below }) => {
    const nested = below.length && ITEM.test(below[0]) && depth < DEPTH_MAX;
    const own = nested ? text : [text, ...below.map((line) => line.trim())].join('\n');
    return h('li', {}, ...inline(own), ...(nested ? [list(below, depth + 1)] : []));
  });
  return h(ordered ? 'ol' : 'ul', ordered ? { start: Number.parseInt(bullet, 10) } : {}, ...made);
}

function cells(line) {
  const row = line.trim();
  return row.slice(row.startsWith('|') ? 1 : 0, row.length > 1 && row.endsWith('|') ? -1 : undefined).split('|').map((cell) => cell.trim());
}

function table(lines) {
  const [head, , ...body] = lines.map((line) => cells(line));
  const row = (values, tag) => h('tr', {}, ...values.map((cell) => h(tag, {}, ...inline(cell))));
  const made = h('table', {}, h('thead', {}, row(head, 'th')), h('tbody', {}, ...body.map((values) => row(values, 'td'))));
  return h('div', { className: 'wide', tabIndex: 0 }, made);
}

/** The nodes of inline text. `depth`: how many spans it is in. */
export function inline(text, depth = 0) {
  if (depth >= DEPTH_MAX) return [text];
  const nodes = [];
  let rest = text;
  for (let match = INLINE.exec(rest); match && nodes.length < SPANS_MAX; match = INLINE.exec(rest)) {
    if (match.index) nodes.push(rest.slice(0, match.index));
    nodes.push(span(match, depth));
    rest = rest.slice(match.index + match[0].length);
  }
  if (rest) nodes.push(rest);
  return nodes;
}

function span({ 0: whole, groups: { code, bold, slant, slant2, gone, label, to, bare, escaped } }, depth) {
  if (code !== undefined) return h('code', { textContent: code.replace(/^ (.*) $/s, '$1') });
  if (bold) return h('strong', {}, ...inline(bold, depth + 1));
  if (slant ?? slant2) return h('em', {}, ...inline(slant ?? slant2, depth + 1));
  if (gone) return h('del', {}, ...inline(gone, depth + 1));
  if (escaped) return escaped;
  const url = to ?? bare;
  if (!url || !SAFE.test(url)) return label || whole;
  return h('a', { href: url, target: '_blank', rel: 'noopener noreferrer' }, label || url);
}

/** Show a growing text: only changed blocks are created again. */
export class Shown {
  constructor(className = 'prose') {
    this.element = h('div', { className });
    this.raws = [];
  }

  show(text) {
    const found = blocks(text);
    found.forEach((block, at) => {
      if (this.raws[at] === block.raw) return;
      this.#place(at, block);
    });
    while (this.element.childElementCount > found.length) this.element.lastElementChild.remove();
    this.raws = found.map(({ raw }) => raw);
    return this.element;
  }

  #place(at, block) {
    const old = this.element.children[at];
    if (block.kind === 'paragraph' && old && grow(old, block, this.raws[at])) return;
    if (block.kind === 'code' && old?.language === block.language) return void old.show(block.lines.join('\n'));
    const made = element(block);
    if (old) old.replaceWith(made);
    else this.element.append(made);
  }
}

/** If text was only added at the end of a block, which is the common case, append it to the last text node. */
function grow(old, block, before) {
  if (!before || !block.raw.startsWith(before)) return false;
  const added = block.raw.slice(before.length);
  const last = old.lastChild;
  if (old.localName !== 'p' || last?.nodeType !== Node.TEXT_NODE || /[`*_~[\]!\\:/]/.test(last.data + added)) return false;
  last.appendData(added);
  return true;
}
