// A form from a JSON schema: texts, numbers, choices, lists of texts, and objects of these. What else a schema says is
// a field for JSON. The gateway checks the value; its error is shown at the field that it names.

import { h, write } from './dom.js';

const DEPTH_MAX = 4; // objects in objects, and references; what is deeper is a field for JSON
const LONG_CHARS = 60; // a longer text gets a field of several lines
let made = 0;

/**
 * Fields for a value that fits `schema`, with the parts of `value`. `name` says what they are of. Returns `element`;
 * `read()`, the value of the fields, which throws an error that names the field that cannot be read; and
 * `show(pointer, text)`, which shows what is wrong at a field, or at the nearest one around it: false if there is none.
 */
export function schemaForm(schema, value, name) {
  const fields = new Map(); // JSON pointer → { control, fault }
  const show = (pointer, text) => {
    for (let at = pointer; ; at = at.slice(0, at.lastIndexOf('/'))) {
      const { control, fault } = fields.get(at) ?? {};
      if (control) {
        write(fault, text);
        control.setAttribute('aria-invalid', 'true');
        control.focus();
        return true;
      }
      if (!at) return false;
    }
  };
  const form = { root: schema ?? {}, name, fields, show };
  const { elements, read } = field(form, form.root, value, { pointer: '', key: '', isRequired: true, depth: 0 });
  const readAll = () => {
    for (const { control, fault } of fields.values()) {
      write(fault, '');
      control.removeAttribute('aria-invalid');
    }
    return read();
  };
  return { element: h('div', { className: 'schema-form' }, ...elements), read: readAll, show };
}

/** A schema without references, and without the null that an optional value may be, which `isNullable` says. */
function plain(root, schema, depth = 0) {
  const { $ref, anyOf = [], ...rest } = schema;
  const referred = $ref?.startsWith('#/') && $ref.slice(2).split('/').reduce((at, step) => at?.[step], root);
  const kept = anyOf.filter(({ type }) => type !== 'null');
  const inner = referred || (kept.length === 1 && kept[0]);
  if (!inner || depth > DEPTH_MAX) return schema;
  const found = plain(root, { ...inner, ...rest }, depth + 1);
  return kept.length < anyOf.length ? { ...found, isNullable: true } : found;
}

function kindOf({ type, enum: choices, const: only, items, properties }, depth) {
  if (choices || only !== undefined) return 'choice';
  if (type === 'array' && items?.type === 'string' && !items.enum) return 'lines';
  if (type === 'object' && properties && depth < DEPTH_MAX) return 'object';
  return { string: 'text', number: 'number', integer: 'number', boolean: 'choice' }[type] ?? 'json';
}

/** The elements of a field, and `read()`, which returns its value; undefined: it is left out. */
function field(form, given, value, place) {
  const schema = plain(form.root, given);
  const kind = kindOf(schema, place.depth);
  return kind === 'object' ? object(form, schema, value, place) : single(form, CONTROLS[kind](schema, value, place), schema, value, place);
}

function single({ name, fields, show }, { control, read, hint, what }, { title, description, isNullable }, value, { pointer, key, isRequired }) {
  const id = `schema-field-${(made += 1)}`;
  const label = key || title || 'Value';
  const note = h('p', { className: 'small', id: `${id}-note`, textContent: [description, hint].filter(Boolean).join(' ') });
  const fault = h('p', { className: 'wrong', id: `${id}-fault`, role: 'alert' });
  Object.assign(control, { id, autocomplete: 'off' });
  control.setAttribute('aria-describedby', `${note.id} ${fault.id}`);
  if (name) control.setAttribute('aria-label', `${label}, ${name}`);
  fields.set(pointer, { control, fault });
  const refuse = (text) => {
    show(pointer, text);
    throw new Error(text);
  };
  const readOrNone = () => {
    let found;
    try {
      found = read(control.value);
    } catch (wrong) {
      refuse(`${label} is not ${what}${what === 'JSON' ? `: ${wrong.message}` : ''}.`);
    }
    if (found !== undefined) return found;
    if (isNullable && (isRequired || value === null)) return null;
    return isRequired ? refuse(`${label} is needed.`) : undefined;
  };
  const optional = isRequired ? [] : [h('span', { className: 'small', textContent: ' (optional)' })];
  return { elements: [h('div', { className: 'schema-field' }, h('label', { for: id }, label, ...optional), control, note, fault)], read: readOrNone };
}

/** An object. What its schema does not name stays as it was. */
function object(form, { properties, required = [] }, value, { pointer, key, isRequired, depth }) {
  const parts = Object.entries(properties).map(([one, inner]) => {
    const step = one.replaceAll('~', '~0').replaceAll('/', '~1');
    return [one, field(form, inner, value?.[one], { pointer: `${pointer}/${step}`, key: one, isRequired: required.includes(one), depth: depth + 1 })];
  });
  const elements = parts.flatMap(([, part]) => part.elements);
  const isFilled = () => elements.some((element) => [...element.querySelectorAll('input, textarea, select')].some((control) => control.value));
  const read = () => {
    if (!isRequired && value === undefined && !isFilled()) return undefined;
    const found = Object.fromEntries(Object.entries(value ?? {}).filter(([one]) => !(one in properties)));
    for (const [one, part] of parts) {
      const own = part.read();
      if (own !== undefined) found[one] = own;
    }
    return found;
  };
  return { elements: key ? [h('fieldset', {}, h('legend', { textContent: key }), ...elements)] : elements, read };
}

/** The controls by kind: `{ control, read(text), hint?, what? }`. `read` returns undefined for a value that is left
 * out, and throws if the text is not `what` it has to be. */
const CONTROLS = {
  text({ maxLength = 0, default: usual }, value, { isRequired }) {
    const text = String(value ?? usual ?? '');
    const isLong = Math.max(text.length, maxLength / 2) > LONG_CHARS || text.includes('\n');
    const control = h(isLong ? 'textarea' : 'input', { value: text });
    return { control, read: (given) => (given === '' && !isRequired && !value ? undefined : given) };
  },

  number({ type, default: usual }, value) {
    const isWhole = type === 'integer';
    const read = (text) => {
      const number = Number(text);
      if (Number.isNaN(number) || (isWhole && !Number.isInteger(number))) throw new SyntaxError();
      return text.trim() ? number : undefined;
    };
    return { control: h('input', { inputMode: 'decimal', value: value ?? usual ?? '' }), read, what: isWhole ? 'a whole number' : 'a number' };
  },

  choice({ type, enum: choices, const: only, default: usual = only }, value) {
    const all = choices ?? (type === 'boolean' ? [true, false] : [only]);
    const word = (one) => (typeof one === 'boolean' ? (one ? 'yes' : 'no') : typeof one === 'string' ? one : JSON.stringify(one));
    const control = h('select', {}, h('option', { value: '', textContent: '–' }), ...all.map((one, at) => h('option', { value: at, textContent: word(one) })));
    control.selectedIndex = all.indexOf(value ?? usual) + 1;
    return { control, read: (given) => (given === '' ? undefined : all[given]) };
  },

  lines(_schema, value, { isRequired }) {
    const read = (text) => {
      if (text.trim().startsWith('[')) return JSON.parse(text);
      const lines = text.split('\n').filter(Boolean);
      return lines.length || isRequired || value ? lines : undefined;
    };
    return { control: h('textarea', { rows: 3, value: (value ?? []).join('\n') }), read, hint: 'One on each line.', what: 'JSON' };
  },

  json(_schema, value) {
    const control = h('textarea', { rows: 4, className: 'mono', spellcheck: false, value: value === undefined ? '' : JSON.stringify(value, null, 2) });
    return { control, read: (text) => (text.trim() ? JSON.parse(text) : undefined), hint: 'JSON.', what: 'JSON' };
  },
};
