// Runs by chance, from a seed: sensible ones, as a server sends them, and wild ones, in any order at all.

/** Numbers that look random and are the same every time (mulberry32). */
export function seeded(seed) {
  const next = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const below = n => Math.floor(next() * n);
  return { below, pick: list => list[below(list.length)], chance: p => next() < p };
}

const VALUES = [null, true, 0, -1.5, '', 'é', '😀x', 'q"\\\n', [], [null, 1], {}, { a: { b: [1] } }, { é: null }];
const maybe = (random, p, fields) => (random.chance(p) ? fields() : {});
const metadataOf = random => ({ prov: { k: random.pick(VALUES) } });
const withMetadata = random => maybe(random, 0.2, () => ({ providerMetadata: metadataOf(random) }));
const words = random => random.pick(['a', 'é', '😀', ' and ', '\n', '', '{"x":1}']);

function messageMetadata(random) {
  return random.pick([{ n: 1 }, { n: { a: 1 } }, { n: { b: [1] } }, { n: null, m: { x: 'é' } }, null, {}]);
}

function callFields(random) {
  return {
    ...maybe(random, 0.2, () => ({ title: random.pick(['T', 'U']) })),
    ...maybe(random, 0.2, () => ({ toolMetadata: { m: random.pick(VALUES) } })),
    ...maybe(random, 0.2, () => ({ providerExecuted: random.chance(0.5) })),
    ...withMetadata(random),
  };
}

function prose(random, kind, id) {
  const chunks = [{ type: `${kind}-start`, id, ...withMetadata(random) }];
  for (let n = random.below(4); n > 0; n--) chunks.push({ type: `${kind}-delta`, id, delta: words(random), ...withMetadata(random) });
  if (random.chance(0.9)) chunks.push({ type: `${kind}-end`, id, ...withMetadata(random) });
  return chunks;
}

function input(random, toolCallId, fields) {
  const toolName = random.pick(['w', 'a-b']);
  const value = random.pick(VALUES);
  const chunks = [];
  const encoding = maybe(random, 0.2, () => ({ inputEncoding: random.pick(['json', 'text']) }));
  if (random.chance(0.6)) {
    const letters = [...JSON.stringify(value)];
    const cut = random.below(letters.length + 1);
    chunks.push({ type: 'tool-input-start', toolCallId, toolName, ...fields, ...encoding, ...callFields(random) });
    for (const inputTextDelta of [letters.slice(0, cut).join(''), letters.slice(cut).join('')]) {
      chunks.push({ type: 'tool-input-delta', toolCallId, inputTextDelta });
    }
    if (random.chance(0.15)) return [chunks.slice(0, 1 + random.below(3)), false];
  }
  if (random.chance(0.1)) {
    chunks.push({ type: 'tool-input-error', toolCallId, toolName, input: value, errorText: 'bad', ...fields });
    return [chunks, false];
  }
  chunks.push({ type: 'tool-input-available', toolCallId, toolName, input: value, ...fields, ...callFields(random) });
  return [chunks, true];
}

function output(random, toolCallId) {
  const ends = [];
  for (let n = random.chance(0.2) ? random.below(3) : 0; n > 0; n--) {
    ends.push({ type: 'tool-output-available', toolCallId, output: random.pick(VALUES), preliminary: true });
  }
  const { title, ...fields } = callFields(random);
  if (random.chance(0.2)) ends.push({ type: 'tool-output-error', toolCallId, errorText: 'e', ...fields });
  else ends.push({ type: 'tool-output-available', toolCallId, output: random.pick(VALUES), ...fields });
  return ends;
}

function question(random, toolCallId, approvalId) {
  return {
    type: 'tool-approval-request',
    approvalId,
    toolCallId,
    ...maybe(random, 0.3, () => ({ approvalDescriptor: random.pick(VALUES) })),
    ...maybe(random, 0.3, () => ({ inputSchemaInput: random.pick(VALUES) })),
    ...maybe(random, 0.3, () => ({ reason: 'why' })),
    ...maybe(random, 0.3, () => ({ isAutomatic: random.chance(0.5) })),
    ...maybe(random, 0.3, () => ({ signature: 'sig' })),
  };
}

function answer(random, toolCallId, approvalId) {
  const approved = random.chance(0.6);
  const reply = { type: 'tool-approval-response', approvalId, approved, ...maybe(random, 0.4, () => ({ reason: 'so' })) };
  return [reply, ...(approved ? output(random, toolCallId) : [{ type: 'tool-output-denied', toolCallId }])];
}

function call(random, toolCallId, later) {
  const fields = random.chance(0.3) ? { dynamic: true } : {};
  const [chunks, isComplete] = input(random, toolCallId, fields);
  if (!isComplete) return chunks;
  if (random.chance(0.3)) {
    const approvalId = `p-${toolCallId}`;
    const target = random.chance(0.5) ? later : chunks;
    chunks.push(question(random, toolCallId, approvalId));
    target.push(...answer(random, toolCallId, approvalId));
  } else if (random.chance(0.9)) {
    chunks.push(...output(random, toolCallId));
  }
  return chunks;
}

/** Whole parts side by side, as a server with parallel calls sends them. */
function interleaved(random, parts) {
  const chunks = [];
  for (let open = parts.filter(part => part.length); open.length; open = open.filter(part => part.length)) {
    chunks.push(random.pick(open).shift());
  }
  return chunks;
}

function inert(random) {
  const url = { url: 'data:,', mediaType: 'a/b', ...withMetadata(random) };
  return random.pick([
    { type: 'file', ...url },
    { type: 'reasoning-file', ...url },
    { type: 'source-url', sourceId: 's', url: 'http://x', ...maybe(random, 0.5, () => ({ title: 'T' })) },
    { type: 'source-document', sourceId: 's', mediaType: 'a/b', title: 'T', ...maybe(random, 0.5, () => ({ filename: 'f' })) },
    { type: 'custom', kind: 'prov.kind', ...withMetadata(random) },
    { type: 'steering-message', id: 's1', parts: [{ type: 'text', text: words(random) }] },
    { type: 'data-p', id: random.pick(['d1', 'd2']), data: random.pick(VALUES) },
    { type: 'data-p', data: random.pick(VALUES), ...maybe(random, 0.5, () => ({ transient: random.chance(0.5) })) },
    { type: 'message-metadata', messageMetadata: messageMetadata(random) },
  ]);
}

function step(random, at, later) {
  const parts = Array.from({ length: 1 + random.below(4) }, (_, n) => {
    const id = `${at}-${n}`;
    return random.pick([
      () => prose(random, 'text', id),
      () => prose(random, 'reasoning', id),
      () => call(random, `c${id}`, later),
      () => [inert(random)],
    ])();
  });
  const body = interleaved(random, parts);
  const isRedone = random.chance(0.1);
  const redone = isRedone ? [...body.slice(0, random.below(body.length)), { type: 'reset-step' }] : [];
  return [{ type: 'start-step' }, ...redone, ...body, ...(random.chance(0.95) ? [{ type: 'finish-step' }] : [])];
}

/** Two lists: a response as a server sends it, and the one that follows when a person has decided (or nothing). */
export function sensibleRun(random) {
  const later = [];
  const start = { type: 'start', messageId: 'a1', ...maybe(random, 0.4, () => ({ messageMetadata: messageMetadata(random) })) };
  const chunks = [start, ...Array.from({ length: 1 + random.below(3) }, (_, at) => step(random, at, later)).flat()];
  if (random.chance(0.8)) {
    const finishReason = random.pick(['stop', 'tool-calls', 'length', 'other']);
    chunks.push({ type: 'finish', finishReason, ...maybe(random, 0.3, () => ({ messageMetadata: messageMetadata(random) })) });
  }
  if (later.length === 0) return [chunks, []];
  return [chunks, [{ type: 'start', messageId: 'a1' }, ...later, ...step(random, 9, []), { type: 'finish' }]];
}

/** Any chunk at any time. Deltas and outputs mostly name something that is there, or the run would end at once. */
export function wildRun(random) {
  const calls = ['c1', 'c2'];
  const open = { text: [], reasoning: [], input: [], call: [], approval: [] };
  const known = (list, other) => (list.length && random.chance(0.97) ? random.pick(list) : other);
  const seen = (list, id) => (list.push(id), id);
  const id = () => random.pick(['t1', 't2', '__proto__']);
  const kind = () => maybe(random, 0.3, () => ({ dynamic: random.chance(0.8) }));
  const tool = () => ({ toolName: random.pick(['w', 'a-b']), ...kind(), ...callFields(random) });
  const end = name => ({ type: `${name}-end`, id: open[name].pop() ?? 'none', ...withMetadata(random) });
  const choices = [
    () => ({ type: 'text-start', id: seen(open.text, id()), ...withMetadata(random) }),
    () => open.text.length && { type: 'text-delta', id: known(open.text, 'none'), delta: words(random) },
    () => open.text.length && random.chance(0.5) && end('text'),
    () => ({ type: 'reasoning-start', id: seen(open.reasoning, id()), ...withMetadata(random) }),
    () => open.reasoning.length && { type: 'reasoning-delta', id: known(open.reasoning, 'none'), delta: words(random) },
    () => open.reasoning.length && random.chance(0.5) && end('reasoning'),
    () => ({ type: 'tool-input-start', toolCallId: seen(open.input, seen(open.call, random.pick(calls))), ...tool() }),
    () => open.input.length && { type: 'tool-input-delta', toolCallId: known(open.input, 'none'), inputTextDelta: random.pick(['{"a":', '[1,', 'tr', ']', '"é', '\\u00']) },
    () => ({ type: 'tool-input-available', toolCallId: seen(open.call, random.pick(calls)), input: random.pick(VALUES), ...tool() }),
    () => ({ type: 'tool-input-error', toolCallId: seen(open.call, random.pick(calls)), input: random.pick(VALUES), errorText: 'e', ...tool() }),
    () => open.call.length && question(random, known(open.call, 'none'), seen(open.approval, random.pick(['p1', 'p2']))),
    () => open.approval.length && random.pick(answer(random, known(open.call, 'none'), known(open.approval, 'none'))),
    () => open.call.length && random.pick(output(random, known(open.call, 'none'))),
    () => inert(random),
    () => inert(random),
    () => ({ type: random.pick(['start-step', 'start-step', 'finish-step']) }),
    () => random.chance(0.2) && (Object.assign(open, { text: [], reasoning: [], input: [], call: [], approval: [] }), { type: 'reset-step' }),
    () => ({ type: 'start', ...maybe(random, 0.3, () => ({ messageId: 'a2' })), messageMetadata: messageMetadata(random) }),
    () => random.pick([{ type: 'finish', finishReason: 'other' }, { type: 'abort' }]),
    () => random.chance(0.05) && { type: 'error', errorText: 'boom' },
  ];
  const chunks = [];
  for (let n = 8 + random.below(24); n > 0; n--) chunks.push(random.pick(choices)());
  return chunks.filter(Boolean);
}
