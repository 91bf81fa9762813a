// The API's contract, to be read: what /openapi.json says, as a page. It asks for nothing else.

import { $, arrange, h, themeSwitch, write } from './dom.js';

const RULES = {
  minimum: 'at least', maximum: 'at most', minLength: 'characters at least', maxLength: 'characters at most',
  minItems: 'items at least', maxItems: 'items at most', pattern: 'as', default: 'unsaid:', contentMediaType: 'holds',
};
const code = (text) => h('code', { textContent: text });
const small = (text) => h('span', { className: 'small', textContent: text });
const between = (lists, mark) => lists.flatMap((list, at) => (at ? [mark, ...list] : list));

/** A schema in one line; a type that has a name is a link to it. */
function line(schema) {
  if (schema.$ref) {
    const name = schema.$ref.split('/').at(-1);
    return [h('a', { href: `#${name}`, textContent: name })];
  }
  if (schema.anyOf) return between(schema.anyOf.map(line), ' or ');
  if (schema.enum) return [code(schema.enum.map((one) => JSON.stringify(one)).join(' | '))];
  if ('const' in schema) return [code(JSON.stringify(schema.const))];
  if (schema.type === 'array') return ['list of ', ...line(schema.items ?? {})];
  if (schema.additionalProperties) return ['object of ', ...line(schema.additionalProperties)];
  const rules = Object.entries(RULES).filter(([name]) => name in schema).map(([name, words]) => `${words} ${JSON.stringify(schema[name])}`);
  const inside = schema.contentSchema ? [' ', ...line(schema.contentSchema)] : [];
  return [[schema.type ?? 'anything'].flat().join(' or '), ...(rules.length ? [small(rules.join(', '))] : []), ...inside];
}

function table(heads, rows) {
  const cells = (row) => row.map((cell) => h('td', {}, ...[cell].flat(Infinity)));
  return h('table', {}, h('thead', {}, h('tr', {}, ...heads.map((head) => h('th', { scope: 'col', textContent: head })))),
    h('tbody', {}, ...rows.map((row) => h('tr', {}, ...cells(row)))));
}

/** What is inside of a schema: its fields, or those of each of its kinds. */
function inside(schema) {
  const must = new Set(schema.required);
  const rows = Object.entries(schema.properties ?? {})
    .map(([name, field]) => [code(name), must.has(name) ? 'required' : '', [line(field), field.description ? small(field.description) : []]]);
  const kinds = (schema.anyOf ?? []).filter((one) => one.properties).flatMap(inside);
  return [...(rows.length ? [table(['Field', '', 'Type'], rows)] : []), ...kinds];
}

function titled(title, ...parts) {
  return parts.length ? [h('h3', { textContent: title }), ...parts] : [];
}

function parameters(list) {
  const rows = list.map((one) => [code(one.name), one.in, [line(one.schema), small(one.description)]]);
  return rows.length ? titled('Parameters', table(['Name', 'Where', 'Type'], rows)) : [];
}

function body(asked) {
  return Object.entries(asked?.content ?? {}).flatMap(([media, { schema, example }]) => titled(
    'Body', h('p', {}, code(media), ' ', ...line(schema)), ...inside(schema),
    ...(example ? [h('pre', { textContent: JSON.stringify(example, null, 2) })] : []),
  ));
}

/** Of a stream, what its events hold. */
function form(media, schema) {
  return media === 'text/event-stream' ? [schema.description, ' The data: ', line(schema.properties.data)] : line(schema);
}

function answers(found) {
  const rows = Object.entries(found).flatMap(([status, { description, content = {}, headers = {} }]) => {
    const named = Object.keys(headers);
    const said = [description, ...(named.length ? [small(`with ${named.join(', ')}`)] : [])];
    const kinds = Object.entries(content).map(([media, { schema }]) => [code(media), [said, ' ', schema ? form(media, schema) : []]]);
    return (kinds.length ? kinds : [['', said]]).map((kind) => [status, ...kind]);
  });
  return titled('Answers', table(['Status', 'Form', 'What'], rows));
}

function operation(path, method, { operationId, summary, description, parameters: asked, requestBody, responses, security }) {
  const [scope] = security.flatMap((one) => Object.values(one).flat());
  return h('details', { id: operationId },
    h('summary', {}, h('span', { className: 'method', textContent: method.toUpperCase(), 'data-method': method }), code(path), small(summary)),
    h('p', { textContent: [description, scope ? `Needs the scope ${scope}.` : 'Needs no credential.'].filter(Boolean).join(' ') }),
    ...parameters(asked), ...body(requestBody), ...answers(responses));
}

function type([name, schema]) {
  const about = schema.description ? [h('p', { textContent: schema.description })] : [];
  const fields = inside(schema);
  return h('details', { id: name }, h('summary', {}, code(name)), ...about, ...(fields.length ? fields : [h('p', {}, ...line(schema))]));
}

function show({ info, paths, tags, components }) {
  write($('version'), info.version);
  const schemes = Object.values(components.securitySchemes);
  arrange($('access'), schemes.flatMap((one) => [h('dt', { textContent: `Authorization: ${one.scheme}` }), h('dd', { textContent: one.description })]));
  const all = Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, one]) => [path, method, one]));
  const groups = tags.map(({ name }) => h('section', {}, h('h2', { textContent: name }),
    ...all.filter(([, , one]) => one.tags.includes(name)).map((one) => operation(...one))));
  arrange($('operations'), groups);
  arrange($('types'), Object.entries(components.schemas).map(type));
}

function find() {
  const wanted = $('filter').value.trim().toLowerCase();
  for (const section of $('operations').children) {
    const listed = [...section.querySelectorAll(':scope > details')];
    for (const one of listed) one.hidden = !one.firstChild.textContent.toLowerCase().includes(wanted);
    section.hidden = listed.every((one) => one.hidden);
  }
}

/** Open what the address names. */
function follow() {
  const named = location.hash && $(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.scrollIntoView();
  }
}

themeSwitch($('theme'));
$('filter').oninput = find;
addEventListener('hashchange', follow);
try {
  const response = await fetch('/openapi.json');
  if (!response.ok) throw new Error(`status ${response.status}`);
  show(await response.json());
  follow();
} catch (fault) {
  write($('notice'), `The contract could not be read: ${fault.message}`);
}
