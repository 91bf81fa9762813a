// The API documentation: Swagger UI over /openapi.json, with the theme and the key of the other pages.

import { $, themeSwitch, write } from './dom.js';

const key = localStorage.getItem('rejoin.key');
const MARKDOWN_TAGS = new Set(['a', 'blockquote', 'br', 'code', 'div', 'em', 'hr', 'li', 'ol', 'p', 'pre', 'span', 'strong', 'ul']);
const systemTheme = matchMedia('(prefers-color-scheme: dark)');

/** Swagger UI has a dark theme of its own, which a class of the root element switches on. */
function applyTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === 'dark' : systemTheme.matches;
  root.classList.toggle('dark-mode', isDark);
}

/**
 * Swagger UI sets rendered Markdown as HTML, which the page's policy (Trusted Types) refuses for plain strings.
 * This default policy lets through what Markdown needs, and nothing that could run.
 */
function allowMarkdown() {
  if (!globalThis.trustedTypes) return;
  const inert = trustedTypes.createPolicy('inert', { createHTML: (html) => html });
  trustedTypes.createPolicy('default', {
    createHTML(html) {
      const { body } = new DOMParser().parseFromString(inert.createHTML(html), 'text/html');
      for (const element of body.querySelectorAll('*')) {
        if (!MARKDOWN_TAGS.has(element.localName)) element.remove();
        for (const { name, value } of [...element.attributes]) {
          if (name !== 'class' && !(name === 'href' && /^(https?:|\/|#)/.test(value))) element.removeAttribute(name);
        }
      }
      const serializer = new XMLSerializer();
      return [...body.childNodes].map((node) => serializer.serializeToString(node)).join('');
    },
  });
}

allowMarkdown();
themeSwitch($('theme'));
applyTheme();
systemTheme.addEventListener('change', applyTheme);
new MutationObserver(applyTheme).observe(document.documentElement, { attributeFilter: ['data-theme'] });

try {
  const response = await fetch('/openapi.json', { headers: key ? { authorization: `Bearer ${key}` } : {} });
  if (!response.ok) throw new Error(`status ${response.status}`);
  const ui = SwaggerUIBundle({
    spec: await response.json(),
    dom_id: '#swagger-ui',
    deepLinking: true,
    filter: true,
    docExpansion: 'list',
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    tryItOutEnabled: true,
    validatorUrl: null,
    onComplete: () => key && ui.preauthorizeApiKey('bearer', key),
  });
} catch (fault) {
  write($('notice'), `The API description could not be read: ${fault.message}`);
}
