// The product's own parts of an answer as cards: data, components, artifacts, summaries; and sources and files.

import { codeBlock } from './code.js';
import { h, iconButton, save } from './dom.js';
import { icon } from './icons.js';
import { SAFE } from './markdown.js';
import { byteSize } from './times.js';
import { wire } from './wire.js';

const FACTS_MAX = 12; // fields of an object that a card shows; all of them are in its JSON
const FACT_CHARS_MAX = 300;
const ARTIFACT_CHARS_MAX = 200_000; // longer ones are shown to here, and downloaded whole

const isPlain = (value) => typeof value !== 'object' || value === null;
const isObject = (value) => !isPlain(value) && !Array.isArray(value);
const small = (textContent) => h('span', { className: 'small', textContent });

/** What a card of a data part shows: `[icon, kind, title, ...body]`. Any client may have sent the part, with any data. */
function describe({ type, data, transient }) {
  switch (isObject(data) && type) {
    case 'data-component':
      return ['component', 'component', data.name, ...facts(data.props)];
    case 'data-artifact':
      return ['artifact', data.type, data.name, ...artifact(data)];
    case 'data-summary':
      return ['summary', 'summary', data.label, ...(data.details === undefined ? [] : [folded(data.details, 'Details')])];
    case 'data-output-error':
      return ['close', 'an answer that did not fit', data.error, ...(data.answer ? [folded(data.answer, 'The answer')] : [])];
    default:
      return ['data', transient ? 'data, not stored' : 'data', type.slice(5), ...facts(data)];
  }
}

/** The card of a data part, made once for its key and filled again when the data has changed. */
export function dataCard(part, key, kept) {
  const card = kept.get(key, () => h('section', { className: 'card' }));
  if (card.part === part) return card;
  card.part = part;
  const [sign, kind, title, ...body] = describe(part);
  const isOpen = card.querySelector('details')?.open ?? false;
  card.setAttribute('aria-label', `${kind} ${title}`);
  card.dataset.type = part.type;
  card.replaceChildren(h('header', {}, icon(sign), h('strong', { textContent: title }), small(kind)), ...body);
  for (const details of card.querySelectorAll('details')) details.open = isOpen;
  return card;
}

/** The fields of an object, or one value; everything as JSON, folded, if that is more. */
function facts(value) {
  if (isPlain(value)) return [h('p', { textContent: String(value) })];
  const plain = isObject(value) ? Object.entries(value).filter(([, one]) => isPlain(one) && String(one).length <= FACT_CHARS_MAX).slice(0, FACTS_MAX) : [];
  const list = h('dl', {}, ...plain.flatMap(([name, one]) => [h('dt', { textContent: name }), h('dd', { textContent: String(one) })]));
  return [...(plain.length ? [list] : []), ...(plain.length < Object.keys(value).length ? [folded(value)] : [])];
}

/** A value as text, and its language. */
const written = (value) => (typeof value === 'string' ? [value, 'text'] : [JSON.stringify(value, null, 2) ?? '', 'json']);

/** A value as JSON, or a text as it is, folded. */
export function folded(value, name = 'JSON') {
  const [text, language] = written(value);
  const made = h('details', {}, h('summary', {}, `${name} `, small(byteSize(new Blob([text]).size))));
  // The code is made when somebody looks: an answer may have many of them.
  made.ontoggle = () => made.open && made.childElementCount === 1 && made.append(codeBlock(text, language, name));
  return made;
}

// ---- artifacts

function artifact({ artifactId, name, description, summary }) {
  const fault = h('span', { className: 'wrong', role: 'alert' });
  const open = h('button', { type: 'button', textContent: 'Open', 'aria-label': `Open ${name}` });
  open.onclick = () => openArtifact(artifactId).then(() => (fault.textContent = ''), (reason) => (fault.textContent = reason.message));
  const preview = isObject(summary) && Object.keys(summary).length ? facts(summary) : [];
  return [...(description ? [h('p', { textContent: description })] : []), ...preview, h('p', { className: 'row' }, open, fault)];
}

/** Show a whole artifact in a dialog. Throws if it cannot be read. */
async function openArtifact(id) {
  const found = await wire.json(`/run/api/artifacts/${encodeURIComponent(id)}`);
  if (!found) throw new Error('It was deleted, or it is not yours.');
  const { name = id, type, data, createdAt } = found;
  const [text, language] = written(data);
  const blob = new Blob([text]);
  const button = iconButton('download', 'Download', { onclick: () => save(blob, `${name}.${language === 'text' ? 'txt' : 'json'}`) });
  const dialog = h('dialog', { className: 'viewer', 'aria-label': `Artifact ${name}` },
    h('header', { className: 'row' }, h('h2', { textContent: name }), small(`${type}, ${byteSize(blob.size)}, ${new Date(createdAt).toLocaleString()}`), button,
      iconButton('close', 'Close', { onclick: () => dialog.close() })),
    codeBlock(text.slice(0, ARTIFACT_CHARS_MAX), language, 'Content'),
    ...(text.length > ARTIFACT_CHARS_MAX ? [small('This is its beginning. Download it to read all of it.')] : []));
  dialog.onclose = () => dialog.remove();
  document.body.append(dialog);
  dialog.showModal();
}

// ---- sources

/** A link to another site, or a text if the URL is none that may be followed. */
const outside = (url, ...inside) => (SAFE.test(url) ? h('a', { href: url, target: '_blank', rel: 'noopener noreferrer' }, icon('out'), ...inside) : h('span', {}, icon('file'), ...inside));

/** The list of an answer's sources, each once, in the order in which it names them. The answer has some. */
export function sourceList(parts) {
  const cited = parts.flatMap(({ citations = [] }) => citations.map(({ source }) => source));
  const all = [...parts.filter(({ type }) => type === 'source-url' || type === 'source-document'), ...cited];
  const sources = [...new Map(all.map((source) => [source.url ?? source.filename ?? source.title, source])).values()];
  const items = sources.map(({ url = '', title, filename, mediaType }) => {
    const where = URL.canParse(url) && SAFE.test(url) ? title && new URL(url).host : (filename ?? mediaType);
    return h('li', {}, outside(url, title ?? filename ?? url, ...(where ? [small(where)] : [])));
  });
  return h('ul', { className: 'sources', 'aria-label': 'Sources' }, ...items);
}

// ---- files

/** A file of a message: an image with its name and size, or a line with both that saves it. */
export function file({ url, mediaType = '', filename }) {
  const isImage = mediaType.startsWith('image/');
  const name = filename ?? (isImage ? 'An attached image' : mediaType);
  const size = small('');
  if (!url.startsWith('data:') && !url.includes('/api/files/')) return h('p', { className: 'file' }, outside(url, name)); // this page may not load it
  if (!isImage) {
    measure(url).then((bytes) => (size.textContent = bytes ? byteSize(bytes) : ''), () => {});
    const button = iconButton('download', `Download ${name}`, { onclick: () => load(url).then((blob) => save(blob, name), (fault) => (size.textContent = fault.message)) });
    return h('p', { className: 'file' }, icon('file'), name, size, button);
  }
  const image = h('img', { alt: name });
  load(url).then((blob) => ((size.textContent = byteSize(blob.size)), (image.src = URL.createObjectURL(blob))), () => image.remove());
  return h('figure', {}, image, h('figcaption', { className: 'file' }, name, size));
}

/** The request for a file. A stored file is fetched with the visitor's key: without signing keys its URL is not
 * signed, and an `<img>` cannot send the key. */
async function request(url, init) {
  const response = await wire.fetch(url.slice(url.indexOf('/api/files/')), init);
  if (!response.ok) throw new Error(`the file answered ${response.status}`);
  return response;
}

/** The bytes of a file. A data URL is read here: the page's policy allows no request to one. */
async function load(url) {
  if (!url.startsWith('data:')) return (await request(url)).blob();
  const [, head, text] = /^data:([^,]*),(.*)$/s.exec(url);
  const type = head.split(';')[0];
  const bytes = head.endsWith(';base64') ? Uint8Array.from(atob(text), (one) => one.charCodeAt(0)) : decodeURIComponent(text);
  return new Blob([bytes], { type });
}

async function measure(url) {
  return url.startsWith('data:') ? (await load(url)).size : Number((await request(url, { method: 'HEAD' })).headers.get('content-length'));
}
