// What the models of a run were asked and what they answered, where its runner records that.

import { h } from './dom.js';
import { folded } from './parts.js';
import { byteSize, duration } from './times.js';
import { wire } from './wire.js';

/** All recorded calls of a run: `{ calls, unreadable }`. Throws `Refused` for a key that may not read them. */
export async function readCalls(run) {
  const found = { calls: [], unreadable: 0 };
  for (let after = 0; ; ) {
    const page = await wire.json(`/api/runs/${run}/model-calls?after=${after}`);
    found.calls.push(...(page?.calls ?? []));
    found.unreadable += page?.unreadable ?? 0;
    after = page?.next;
    if (!after) return found;
  }
}

/** A call: its request and its raw answer, folded. */
export function callElement({ url, status, attempt, durationMs, request, requestBytes, answer, answerBytes }) {
  const facts = [url, status ?? 'no answer', duration(durationMs), `attempt ${attempt}`].join(', ');
  return h('div', { className: 'call' }, h('p', { className: 'small', textContent: facts }),
    folded(parsed(request), named('Request', request, requestBytes)), folded(answer, named('Answer', answer, answerBytes)));
}

/** The recorded text may be the beginning only. */
const named = (name, text, bytes) => (new Blob([text]).size < bytes ? `${name}, its beginning, of ${byteSize(bytes)}` : name);

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text; // it was cut
  }
}
