// The little of a framework that these pages need. Text becomes text nodes: there is no way to markup from here.

export const $ = (id) => document.getElementById(id);

/** An element with these properties; those with a hyphen are attributes. */
export function h(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role' || name === 'for') made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Give `parent` these children in this order; those that stay keep their focus, selection and openness. */
export function arrange(parent, children) {
  children.forEach((child, at) => {
    if (child !== parent.childNodes[at]) parent.insertBefore(child, parent.childNodes[at] ?? null);
  });
  while (parent.childNodes.length > children.length) parent.lastChild.remove();
}

/** Say it, and touch nothing if it is said already. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Elements by key, made once each. */
export class Kept {
  #made = new Map();

  get(key, make) {
    if (!this.#made.has(key)) this.#made.set(key, make());
    return this.#made.get(key);
  }
}

/** Switch between light and dark; what the system wants is the beginning. */
export function themeSwitch(button) {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
  const name = () => {
    button.setAttribute('aria-label', dark() ? 'Use the light theme' : 'Use the dark theme');
    button.textContent = dark() ? 'Light' : 'Dark';
  };
  button.onclick = () => {
    root.dataset.theme = dark() ? 'light' : 'dark';
    localStorage.setItem('rejoin.theme', root.dataset.theme);
    name();
  };
  name();
}
