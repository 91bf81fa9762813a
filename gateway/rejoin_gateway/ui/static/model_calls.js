// What the model of a step was asked and what it answered, where its runner records that.

import { once } from './console.js';
import { arrange, h, write } from './dom.js';
import { folded } from './parts.js';
import { byteSize, duration } from './times.js';
import { wire } from './wire.js';

const NONE = 'None was recorded: runners with REJOIN_RECORD_MODEL_CALLS=true record what a model over HTTP is asked and answers.';

/** The calls of a step, folded. A page is read when they are opened, and a further one when it is asked for. */
export function stepCalls(run, step) {
  const [list, said] = [h('div'), h('p', { className: 'small', role: 'status' })];
  const more = h('button', { className: 'quiet', textContent: 'More calls', hidden: true, onclick: once(() => read()) });
  let [calls, unreadable, next] = [new Map(), 0, 0];
  async function read() {
    try {
      const page = await wire.json(`/api/runs/${run}/model-calls?step=${step}&after=${next}`);
      for (const record of page?.records ?? []) calls.set(record.call, { ...calls.get(record.call), [record.kind]: record });
      next = page?.next ?? 0;
      unreadable += page?.unreadable ?? 0;
      arrange(list, [...calls.values()].map(callElement));
      write(said, unreadable ? `${unreadable} records cannot be decrypted with the keys of this gateway.` : calls.size ? '' : NONE);
    } catch (fault) {
      write(said, fault.message);
    }
    more.hidden = !next;
  }
  const element = h('details', { className: 'calls' }, h('summary', { textContent: 'Model calls' }), list, said, more);
  element.ontoggle = () => {
    if (!element.open) return;
    [calls, unreadable, next] = [new Map(), 0, 0];
    read();
  };
  return element;
}

/** A call: its request and its raw answer, folded. One of them may be missing. */
function callElement({ request, answer }) {
  const facts = [request?.url, request && `attempt ${request.attempt}`, answer ? (answer.status ?? 'no answer') : 'not answered: it is under way, or its runner was killed', answer && duration(answer.durationMs)];
  return h('div', { className: 'call' }, h('p', { className: 'small', textContent: facts.filter(Boolean).join(', ') }), ...(request ? text('Request', request, parsed(request.text)) : []), ...(answer ? text('Answer', answer, answer.text) : []));
}

/** The recorded text may be the beginning only, or left out. */
function text(name, { text: recorded, bytes }, shown) {
  if (!recorded && bytes) return [h('p', { className: 'small', textContent: `${name}: ${byteSize(bytes)}, not recorded: too much was` })];
  return [folded(shown, new Blob([recorded]).size < bytes ? `${name}, its beginning, of ${byteSize(bytes)}` : name)];
}

function parsed(recorded) {
  try {
    return JSON.parse(recorded);
  } catch {
    return recorded; // it was cut
  }
}
