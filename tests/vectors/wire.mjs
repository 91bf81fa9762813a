// One chunk of every type with all its fields, and what may be wrong with it. Whether the client takes each case is
// asked of the client; only the cases are ours.
const providerMetadata = { prov: { k: [1, 'a', null] } };
const toolMetadata = { m: { k: null } };
const call = { toolCallId: 'c1', providerExecuted: false, providerMetadata, toolMetadata, dynamic: true };
const source = { type: 'source', sourceType: 'url', id: 's', url: 'http://x', title: 'T', providerMetadata };
const paper = { type: 'source', sourceType: 'document', id: 's', mediaType: 'a/b', title: 'T', filename: 'f', providerMetadata };

export const complete = [
  { type: 'start', messageId: 'a1', messageMetadata: { n: 1 } },
  { type: 'start-step' },
  { type: 'finish-step' },
  { type: 'reset-step' },
  { type: 'finish', finishReason: 'stop', messageMetadata: { n: 1 } },
  { type: 'abort', reason: 'r' },
  { type: 'error', errorText: 'e' },
  { type: 'message-metadata', messageMetadata: { n: 1 } },
  { type: 'text-start', id: 't', providerMetadata },
  { type: 'text-delta', id: 't', delta: 'é😀', providerMetadata },
  {
    type: 'text-end',
    id: 't',
    providerMetadata,
    citations: [{ source, startIndex: 0, endIndex: 1, citedText: 'é' }, { source: paper }],
  },
  { type: 'reasoning-start', id: 'r', providerMetadata },
  { type: 'reasoning-delta', id: 'r', delta: 'd', providerMetadata },
  { type: 'reasoning-end', id: 'r', providerMetadata },
  { type: 'reasoning-file', url: 'data:,', mediaType: 'a/b', providerMetadata },
  { type: 'file', url: 'data:,', mediaType: 'a/b', providerMetadata },
  { type: 'source-url', sourceId: 's', url: 'http://x', title: 'T', providerMetadata },
  { type: 'source-document', sourceId: 's', mediaType: 'a/b', title: 'T', filename: 'f', providerMetadata },
  { type: 'custom', kind: 'prov.kind', providerMetadata },
  {
    type: 'steering-message',
    id: 's1',
    parts: [
      { type: 'text', text: 'go', providerMetadata },
      { type: 'file', mediaType: 'a/b', url: 'data:,', filename: 'f', providerReference: { p: 'r' }, providerMetadata },
    ],
  },
  { type: 'tool-input-start', ...call, toolName: 'w', inputEncoding: 'json', title: 'T' },
  { type: 'tool-input-delta', toolCallId: 'c1', inputTextDelta: '{' },
  { type: 'tool-input-available', ...call, toolName: 'w', input: { q: 1 }, title: 'T' },
  { type: 'tool-input-error', ...call, toolName: 'w', input: { q: 1 }, errorText: 'e', title: 'T' },
  {
    type: 'tool-approval-request',
    approvalId: 'p1',
    toolCallId: 'c1',
    approvalDescriptor: { d: 1 },
    inputSchemaInput: { s: 1 },
    reason: 'r',
    isAutomatic: true,
    signature: 's',
  },
  { type: 'tool-approval-response', approvalId: 'p1', approved: false, reason: 'r', providerExecuted: true, providerMetadata },
  { type: 'tool-output-available', ...call, output: [1], preliminary: true },
  { type: 'tool-output-error', ...call, errorText: 'e' },
  { type: 'tool-output-denied', toolCallId: 'c1' },
  { type: 'data-x', id: 'd1', data: { v: 1 }, transient: false },
];

const of = type => complete.find(chunk => chunk.type === type);
const WRONG = { string: 7, boolean: 'true', object: 'x' };

function* faults(chunk) {
  for (const field of Object.keys(chunk).filter(field => field !== 'type')) {
    const { [field]: value, ...rest } = chunk;
    yield [`without ${field}`, rest];
    yield [`${field} is null`, { ...chunk, [field]: null }];
    yield [`${field} is of a wrong type`, { ...chunk, [field]: WRONG[typeof value] }];
  }
}

function* inner() {
  for (const metadata of [{}, { prov: {} }, { prov: { k: null } }, { prov: 1 }, { prov: null }, { prov: [] }, []]) {
    yield ['text-start', 'providerMetadata', metadata];
  }
  for (const metadata of [{}, { m: null }, []]) yield ['tool-input-start', 'toolMetadata', metadata];
  for (const encoding of ['text', 'xml']) yield ['tool-input-start', 'inputEncoding', encoding];
  for (const reason of ['length', 'content-filter', 'tool-calls', 'error', 'other', 'interrupted', 'unknown', '']) {
    yield ['finish', 'finishReason', reason];
  }
  for (const metadata of [7, 'x', [1], {}, false]) yield ['message-metadata', 'messageMetadata', metadata];
  for (const [, part] of faults(source)) yield ['text-end', 'citations', [{ source: part }]];
  for (const [, part] of faults(paper)) yield ['text-end', 'citations', [{ source: part }]];
  for (const [, citation] of faults({ source, endIndex: 1, citedText: 'x' })) yield ['text-end', 'citations', [citation]];
  for (const startIndex of [-1, 1.5, '1', 3]) yield ['text-end', 'citations', [{ source, startIndex }]];
  for (const type of ['text', null, undefined]) yield ['text-end', 'citations', [{ source: { ...source, type } }]];
  for (const part of of('steering-message').parts) {
    for (const [, faulty] of faults(part)) yield ['steering-message', 'parts', [faulty]];
  }
  for (const part of [{}, { type: 'image' }, { text: 'x' }, 'x', null]) yield ['steering-message', 'parts', [part]];
  yield ['steering-message', 'parts', []];
}

const RAW = [
  '{"type":"ping"}',
  '{"type":"data"}',
  '{"type":"data-","data":1}',
  '{"type":"DATA-x","data":1}',
  '{"type":"step-start"}',
  '{"type":null}',
  '{"type":1}',
  '{}',
  '[]',
  '"start"',
  'null',
  'nothing',
  '{"type":"start"',
  '{"type":"start"} {}',
  '{"type":"data-x","data":NaN}',
  '{"type":"data-x","data":Infinity}',
  '{"type":"data-x","data":{"__proto__":1}}',
  '{"type":"data-x","data":{"\\u005f_proto__":1}}',
  '{"type":"data-x","data":[{"constructor":{"prototype":1}}]}',
  '{"type":"data-x","data":{"constructor":{"p":1},"prototype":1,"a":"__proto__"}}',
  '{"type":"text-delta","id":"t","delta":"\\"__proto__\\":1"}',
  '{"type":"text-delta","id":"__proto__","delta":"\\u0000\\u001b"}',
  '{"type":"start","__proto__":1}',
  '{"data":1,"type":"data-x"}',
];

/** Pairs of a name and a chunk's text. */
export function* wireCases() {
  for (const chunk of complete) {
    yield [`${chunk.type}: complete`, JSON.stringify(chunk)];
    yield [`${chunk.type}: with an unknown field`, JSON.stringify({ ...chunk, later: { v: 8 } })];
    for (const [fault, faulty] of faults(chunk)) yield [`${chunk.type}: ${fault}`, JSON.stringify(faulty)];
  }
  for (const [type, field, value] of inner()) {
    yield [`${type}: ${field} is ${JSON.stringify(value)}`, JSON.stringify({ ...of(type), [field]: value })];
  }
  for (const raw of RAW) yield [raw, raw];
}
