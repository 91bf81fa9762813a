// Small DOM functions for these pages. Text becomes text nodes and never markup.

import { icon } from './icons.js';

export const $ = (id) => document.getElementById(id);

/** Create an element. Properties with a hyphen in their name are set as attributes. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role' || name === 'for') element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** A button that is an icon; `label` is what it does. */
export const iconButton = (name, label, properties = {}) =>
  h('button', { type: 'button', className: 'quiet bare', 'aria-label': label, title: label, ...properties }, icon(name));

/** Save a blob as a file. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Make these the children of `parent`, in this order. Elements that stay keep focus, selection and open state. */
export function arrange(parent, children) {
  children.forEach((child, at) => {
    if (child !== parent.childNodes[at]) parent.insertBefore(child, parent.childNodes[at] ?? null);
  });
  while (parent.childNodes.length > children.length) parent.lastChild.remove();
}

/** Set the text of an element, unless it has this text already. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A cache of elements: each is created once for its key. */
export class Kept {
  #made = new Map();

  get(key, make) {
    if (!this.#made.has(key)) this.#made.set(key, make());
    return this.#made.get(key);
  }

  /** Forget the elements of all keys but these: a page may stay open for days. */
  retain(keys) {
    for (const key of this.#made.keys()) if (!keys.has(key)) this.#made.delete(key);
  }
}

/** Make a button that switches between light and dark. The system's theme applies until it is used. */
export function themeSwitch(button) {
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
  const label = () => {
    button.title = isDark() ? 'Use the light theme' : 'Use the dark theme';
    button.setAttribute('aria-label', button.title);
    button.replaceChildren(icon(isDark() ? 'sun' : 'moon'));
  };
  button.onclick = () => {
    root.dataset.theme = isDark() ? 'light' : 'dark';
    localStorage.setItem('rejoin.theme', root.dataset.theme);
    label();
  };
  label();
}
