// Code with colours and a button that copies it. One small set of rules serves all languages: it knows comments,
// texts, numbers and the words of the common ones. Text never becomes markup.

import { arrange, h, iconButton } from './dom.js';
import { icon } from './icons.js';

const COLOURED_CHARS_MAX = 20_000; // longer code is shown in one colour: it may be coloured again at every event
const COPIED_MS = 1_500;
const HASH = /^(py|python|sh|bash|zsh|shell|console|ya?ml|toml|rb|ruby|dockerfile)$/i;
const PLAIN = /^(text|txt|plain|log|csv|diff|markdown|md)$/i;
const WORDS = new Set(
  `and as async await bool break case catch class const continue def default del delete do elif else enum except export
  extends false False finally float fn for from func function if impl import in int interface is lambda let match mut
  new nil None not null or package pass private pub public raise return select self static str string struct super
  switch this throw trait true True try type undefined use var void where while with yield`.split(/\s+/),
);
const STRING = '"""[\\s\\S]*?(?:"""|$)|"(?:[^"\\\\\\n]|\\\\.)*"?|\'(?:[^\'\\\\\\n]|\\\\.)*\'?|`(?:[^`\\\\]|\\\\.)*`?';

/** The rules of a language, as one expression with the groups `comment`, `text`, `number`, `word`. */
function rules(language) {
  const line = HASH.test(language) ? '#' : /^sql$/i.test(language) ? '--' : '(?<![:\\w])//';
  const comment = `${line}[^\\n]*|/\\*[\\s\\S]*?(?:\\*/|$)|<!--[\\s\\S]*?(?:-->|$)`;
  return new RegExp(`(?<comment>${comment})|(?<text>${STRING})|(?<number>\\b\\d[\\w.]*)|(?<word>[A-Za-z_$][\\w$]*)`, 'g');
}

/** The nodes of a piece of code: texts, and elements of the classes `comment`, `text`, `number`, `word`. */
export function coloured(code, language = '') {
  if (code.length > COLOURED_CHARS_MAX || PLAIN.test(language)) return [code];
  const nodes = [];
  let end = 0;
  for (const found of code.matchAll(rules(language))) {
    const [kind, text] = Object.entries(found.groups).find(([, one]) => one !== undefined);
    if (kind === 'word' && !WORDS.has(text)) continue;
    if (found.index > end) nodes.push(code.slice(end, found.index));
    nodes.push(h('span', { className: `of-${kind}`, textContent: text }));
    end = found.index + text.length;
  }
  if (end < code.length) nodes.push(code.slice(end));
  return nodes;
}

/** A block of code. `show(code)` replaces its code. */
export function codeBlock(code, language = '', label = language || 'Code') {
  const inside = h('code');
  const copy = copyButton(() => inside.textContent);
  const made = h('div', { className: 'code' }, h('span', { className: 'small', textContent: language }), copy, h('pre', { tabIndex: 0, 'aria-label': label, role: 'group' }, inside));
  made.language = language;
  made.show = (text) => arrange(inside, coloured(text, language).map((node) => (typeof node === 'string' ? new Text(node) : node)));
  made.show(code);
  return made;
}

/** A button that copies what `read()` returns. */
export function copyButton(read, label = 'Copy') {
  const button = iconButton('copy', label);
  button.onclick = async () => {
    const done = await write(read());
    button.replaceChildren(icon(done ? 'check' : 'close'));
    button.setAttribute('aria-label', done ? 'Copied' : 'This browser does not copy here');
    setTimeout(() => (button.replaceChildren(icon('copy')), button.setAttribute('aria-label', label)), COPIED_MS);
  };
  return button;
}

/** Browsers have no clipboard on plain http origins other than localhost. */
async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
