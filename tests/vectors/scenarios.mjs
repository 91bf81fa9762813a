// Named runs: [what it shows, the chunks of the response, the chunks of each continuation].
import { complete } from './wire.mjs';

const start = { type: 'start', messageId: 'a1' };
const step = { type: 'start-step' };
const stepEnd = { type: 'finish-step' };
const reset = { type: 'reset-step' };
const finish = { type: 'finish', finishReason: 'stop' };
const meta = k => ({ providerMetadata: { prov: { k } } });

const open = (id, more) => ({ type: 'text-start', id, ...more });
const say = (id, delta, more) => ({ type: 'text-delta', id, delta, ...more });
const close = (id, more) => ({ type: 'text-end', id, ...more });
const text = (id, ...deltas) => [open(id), ...deltas.map(delta => say(id, delta)), close(id)];
const think = (id, ...deltas) => [
  { type: 'reasoning-start', id },
  ...deltas.map(delta => ({ type: 'reasoning-delta', id, delta })),
  { type: 'reasoning-end', id },
];

const call = (toolCallId, more) => ({ type: 'tool-input-start', toolCallId, toolName: 'w', ...more });
const args = (toolCallId, inputTextDelta) => ({ type: 'tool-input-delta', toolCallId, inputTextDelta });
const ready = (toolCallId, input, more) => ({ type: 'tool-input-available', toolCallId, toolName: 'w', input, ...more });
const bad = (toolCallId, more) => ({ type: 'tool-input-error', toolCallId, toolName: 'w', input: 'x', errorText: 'bad', ...more });
const ask = (toolCallId, approvalId, more) => ({ type: 'tool-approval-request', approvalId, toolCallId, ...more });
const decide = (approvalId, approved, more) => ({ type: 'tool-approval-response', approvalId, approved, ...more });
const result = (toolCallId, output, more) => ({ type: 'tool-output-available', toolCallId, output, ...more });
const failed = (toolCallId, more) => ({ type: 'tool-output-error', toolCallId, errorText: 'e', ...more });
const denied = toolCallId => ({ type: 'tool-output-denied', toolCallId });
const data = (value, more) => ({ type: 'data-p', data: value, ...more });
const about = messageMetadata => ({ type: 'message-metadata', messageMetadata });
const run = (...chunks) => [start, step, ...chunks.flat(), stepEnd, finish];

const dynamic = { dynamic: true };
const asText = { inputEncoding: 'text' };

const frame = [
  ['no chunk at all', []],
  ['only start', [start]],
  ['no start', [step, ...text('t', 'hi'), stepEnd, finish]],
  ['start without an id', [{ type: 'start' }, ...text('t', 'hi')]],
  ['a second start with the same id does not reset', run(open('t'), say('t', 'wrong'), start, text('t', 'right'))],
  ['a second start with another id renames the message', run(text('t', 'a'), { type: 'start', messageId: 'a2' }, text('u', 'b'))],
  ['finish without a reason', [start, ...text('t', 'hi'), { type: 'finish' }]],
  ['the last finish reason counts', [start, finish, { type: 'finish', finishReason: 'interrupted' }, { type: 'finish' }]],
  ['chunks after finish count', [...run(text('t', 'a')), ...text('u', 'b')]],
  ['abort leaves parts as they are', [start, step, open('t'), say('t', 'par'), { type: 'abort', reason: 'user' }, { type: 'finish' }]],
  ['an error ends the reading', [start, step, open('t'), say('t', 'par'), { type: 'error', errorText: 'boom' }, say('t', 'tial'), finish]],
  ['a chunk of an unknown type ends the reading', [start, ...text('t', 'a'), { type: 'ping' }, ...text('u', 'b')]],
  ['a null field ends the reading', [start, ...text('t', 'a'), { type: 'abort', reason: null }, ...text('u', 'b')]],
];

const metadata = [
  ['metadata of start, message-metadata and finish merge deeply', [
    { ...start, messageMetadata: { a: { b: 1, c: [1, 2] }, d: 1 } },
    about({ a: { c: [3], e: null }, d: { f: 1 } }),
    { ...finish, messageMetadata: { a: null, g: 'é' } },
  ]],
  ['null metadata is no metadata', [{ ...start, messageMetadata: null }, about(null)]],
  ['null metadata does not remove metadata', [{ ...start, messageMetadata: { a: 1 } }, about(null)]],
  ['prototype words are not merged', [about({ a: 1 }), about({ constructor: 1, prototype: 2, b: { constructor: 3 } }), about({ b: { constructor: 4, c: 5 } })]],
  ['metadata alone may be anything', [about([1, 'a'])]],
];

const prose = [
  ['text', run(text('t', 'he', 'llo'))],
  ['text without deltas', run(text('t'))],
  ['an empty delta', run(text('t', ''))],
  ['text that stays open', run(open('t'), say('t', 'a'))],
  ['interleaved texts', run(open('t'), open('u'), say('t', 'a'), say('u', 'b'), close('t'), say('u', 'c'), close('u'))],
  ['text and reasoning under one id', run(open('t'), { type: 'reasoning-start', id: 't' }, say('t', 'a'), { type: 'reasoning-delta', id: 't', delta: 'b' }, close('t'))],
  ['the same id twice without an end', run(open('t'), say('t', 'a'), text('t', 'b'))],
  ['the same id again after its end', run(text('t', 'a'), text('t', 'b'))],
  ['text that is open across steps', run(open('t'), say('t', 'a'), stepEnd, step, say('t', 'b'), close('t'))],
  ['a delta after the end', run(text('t', 'a'), say('t', 'b'))],
  ['a delta of nothing', run(say('t', 'a'))],
  ['an end of nothing', run(close('__proto__'))],
  ['a reasoning delta of nothing', run({ type: 'reasoning-delta', id: 'constructor', delta: 'x' })],
  ['a reasoning end of nothing', run({ type: 'reasoning-end', id: 'r' })],
  ['text is not continued by a continuation', [start, open('t'), say('t', 'a')], [start, say('t', 'b')]],
  ['reasoning', run(think('r', 'hm', 'm'), text('t', 'so'))],
  ['provider metadata of prose: the last one given', run(open('t', meta(1)), say('t', 'a', meta(2)), say('t', 'b'), close('t', meta(null)), open('u', meta(3)), close('u'))],
  ['provider metadata of reasoning', run({ type: 'reasoning-start', id: 'r', ...meta(1) }, { type: 'reasoning-delta', id: 'r', delta: 'd', ...meta(2) }, { type: 'reasoning-end', id: 'r', ...meta('sig') })],
  ['citations', run(open('t'), say('t', 'a'), complete.find(chunk => chunk.type === 'text-end'))],
];

const steps = [
  ['steps', run(text('t', 'a'), stepEnd, step, text('t', 'b'))],
  ['reset-step drops what came since the step began', run(open('t'), say('t', 'wrong'), reset, text('t', 'right'))],
  ['reset-step keeps earlier steps', run(text('t', 'a'), stepEnd, step, ready('c', 1), data(1), reset, text('u', 'b'))],
  ['reset-step without a step drops everything', [start, ...text('t', 'a'), reset, ...text('u', 'b')]],
  ['reset-step with nothing to drop', run(reset, reset, text('t', 'a'))],
  ['reset-step closes what earlier steps left open', run(open('t'), say('t', 'a'), stepEnd, step, text('u', 'x'), reset, say('t', 'b'))],
  ['a delta of a dropped text', run(open('t'), reset, say('t', 'a'))],
  ['a delta of a dropped input', run(call('c'), args('c', '{'), reset, args('c', '}'))],
  ['an output of a dropped call', run(ready('c', 1), reset, result('c', 1))],
  ['reset-step in a continuation', [start, step, open('t'), say('t', 'wrong')], [start, reset, ...text('t', 'right'), stepEnd, finish]],
];

const kinds = name => more => [
  [`${name} call: input in pieces, output`, run(call('c', more), args('c', '{"q":'), args('c', '"é"}'), ready('c', { q: 'é' }, more), result('c', [1]))],
  [`${name} call: input still streaming`, run(call('c', more), args('c', '{"q":['), args('c', '1,tr'))],
  [`${name} call: input not begun`, run(call('c', more))],
  [`${name} call: empty delta`, run(call('c', more), args('c', ''))],
  [`${name} call: input that never makes sense`, run(call('c', more), args('c', '}{'))],
  [`${name} call: input as text`, run(call('c', { ...more, ...asText }), args('c', '{"q"'), args('c', ': é'))],
  [`${name} call: input as text, complete`, run(call('c', { ...more, ...asText }), args('c', 'code'), ready('c', 'code', more), result('c', null))],
  [`${name} call: input goes on in a continuation`, [start, step, call('c', { ...more, title: 'T', inputEncoding: 'json', toolMetadata: { m: 1 } }), args('c', '{"q":"')], [start, args('c', 'é"'), args('c', '}'), ready('c', { q: 'é' }, more), result('c', 2)]],
  [`${name} call: input of an earlier step does not go on in a continuation`, [start, step, call('c', more), args('c', '{'), stepEnd, step], [start, args('c', '}')]],
  [`${name} call: input goes on in the next step`, run(call('c', more), args('c', '{"a":1'), stepEnd, step, args('c', ',"b":2'))],
  [`${name} call: input goes on twice in the next step`, run(call('c', more), args('c', '{"a":1'), stepEnd, step, args('c', ',"b":2'), args('c', '}'))],
  [`${name} call: output while the input streams`, run(call('c', more), args('c', '{"a":1'), result('c', 1))],
  [`${name} call: error while the input streams`, run(call('c', more), args('c', '{"a":1'), failed('c'))],
  [`${name} call: error while text input streams`, run(call('c', { ...more, ...asText }), args('c', 'x'), failed('c'))],
  [`${name} call: delta after the output`, run(call('c', more), args('c', '{"a":1'), result('c', 1), args('c', ',"b":2}'))],
  [`${name} call: bad input`, run(bad('c', { ...more, ...meta(1) }))],
  [`${name} call: bad input after pieces`, run(call('c', { ...more, title: 'T', ...meta(1) }), args('c', '{"a"'), bad('c', meta(2)))],
  [`${name} call: input error keeps the kind of the part`, run(call('c', more), bad('c', { dynamic: !more.dynamic, toolName: 'v' }))],
  [`${name} call: available twice removes the output`, run(ready('c', 1, more), result('c', 1, meta(1)), ready('c', 2, { ...more, toolName: 'v' }))],
  [`${name} call: started again after its input`, run(ready('c', 1, more), call('c', more))],
  [`${name} call: the same id in the next step`, run(ready('c', 1, more), result('c', 1), stepEnd, step, ready('c', 2, more), result('c', 2))],
  [`${name} call: output of an earlier step's call`, run(ready('c', 1, more), stepEnd, step, text('t', 'a'), result('c', 1))],
  [`${name} call: output goes to the newest step`, run(ready('c', 1, more), stepEnd, step, ready('c', 2, more), stepEnd, step, result('c', 'newest'))],
  [`${name} call: preliminary outputs`, run(ready('c', 1, more), result('c', 1, { preliminary: true }), result('c', 2, { preliminary: true }), result('c', 3))],
  [`${name} call: a preliminary output stays`, run(ready('c', 1, more), result('c', 1, { preliminary: true }))],
  [`${name} call: output, then error`, run(ready('c', 1, more), result('c', 1, meta(1)), failed('c'))],
  [`${name} call: error, then output`, run(ready('c', 1, more), failed('c', meta(1)), result('c', null))],
  [`${name} call: what is sticky`, run(call('c', { ...more, title: 'T', toolMetadata: { m: 1 }, providerExecuted: true, ...meta(1) }), args('c', '1'), ready('c', 1, more), result('c', 1))],
  [`${name} call: what is replaced`, run(call('c', { ...more, title: 'T', toolMetadata: { m: 1 }, providerExecuted: true, ...meta(1) }), ready('c', 1, { ...more, title: 'U', toolMetadata: { m: 2 }, providerExecuted: false, ...meta(2) }), result('c', 1, { toolMetadata: { m: 3 }, providerExecuted: true, ...meta(3) }))],
  [`${name} call: null input and output`, run(ready('c', null, more), result('c', null))],

  [`${name} call: approved in a continuation`, run(ready('c', { q: 1 }, more), ask('c', 'p')), [start, decide('p', true, { reason: 'ok' }), result('c', 1), step, ...text('t', 'a'), stepEnd, finish]],
  [`${name} call: denied in a continuation`, run(ready('c', { q: 1 }, more), ask('c', 'p', { reason: 'why' })), [start, decide('p', false, { reason: 'no' }), denied('c'), step, ...text('t', 'a'), stepEnd, finish]],
  [`${name} call: waits for an approval`, run(ready('c', 1, { ...more, ...meta(1) }), ask('c', 'p', { approvalDescriptor: { d: 1 }, inputSchemaInput: null, isAutomatic: false, signature: 's' }))],
  [`${name} call: decided and not yet run`, run(ready('c', 1, more), ask('c', 'p'), decide('p', true))],
  [`${name} call: decided automatically`, run(ready('c', 1, more), ask('c', 'p', { isAutomatic: true }), decide('p', true), result('c', 1))],
  [`${name} call: a descriptor of null is none`, run(ready('c', 1, more), ask('c', 'p', { approvalDescriptor: null }))],
  [`${name} call: a decision with metadata`, run(ready('c', 1, { ...more, ...meta(1) }), ask('c', 'p'), decide('p', true, { providerExecuted: true, ...meta(2) }))],
  [`${name} call: asked again`, run(ready('c', 1, more), ask('c', 'p', { reason: 'a', signature: 's' }), decide('p', false, { reason: 'no' }), ask('c', 'q'))],
  [`${name} call: input available again after the decision`, run(ready('c', 1, more), ask('c', 'p'), decide('p', true), ready('c', 2, more))],
  [`${name} call: asked while the input streams`, run(call('c', more), args('c', '[1'), ask('c', 'p'), args('c', ',2]'))],
  [`${name} call: decided while the input streams`, run(call('c', more), args('c', '[1'), ask('c', 'p'), decide('p', true), result('c', 1))],
  [`${name} call: denied without a question`, run(ready('c', 1, more), denied('c'))],
  [`${name} call: approved, then failed`, run(ready('c', 1, more), ask('c', 'p'), decide('p', true), failed('c', meta(1)))],
];

const calls = [
  ...kinds('static')({}),
  ...kinds('dynamic')(dynamic),
  ['parallel calls', run(call('c'), call('d', dynamic), args('c', '{"a"'), args('d', '[1'), args('c', ':1}'), args('d', ']'), ready('d', [1], dynamic), ready('c', { a: 1 }), result('d', 1), result('c', 2))],
  ['two approvals, decided in the other order', run(ready('c', 1), ready('d', 2), ask('c', 'p'), ask('d', 'q')), [start, decide('q', false), decide('p', true), denied('d'), result('c', 1)]],
  ['one approval id in two calls: the oldest is meant', run(ready('c', 1), ask('c', 'p'), ready('d', 2), ask('d', 'p'), decide('p', true))],
  ['a dynamic start and a static input are two parts', run(call('c', dynamic), args('c', '[1'), ready('c', [1]), result('c', 1))],
  ['an output for an unknown call', run(ready('c', 1), result('d', 1))],
  ['an error for an unknown call', run(failed('__proto__'))],
  ['a denial for an unknown call', run(denied('c'))],
  ['a question for an unknown call', run(ask('c', 'p'))],
  ['a decision nobody asked for', run(ready('c', 1), decide('p', true))],
  ['a delta of an unknown call', run(ready('c', 1), args('c', '{'))],
  ['a forbidden key in an open input', run(call('c'), args('c', '{"__proto__"'), args('c', ':{'))],
  ['a tool whose name has dashes', run(call('c', { toolName: 'a-b-c' }), args('c', '1'), result('c', 1))],
  ['calls without a step', [start, ready('c', 1), result('c', 1), ready('d', 1, dynamic)]],
];

const others = [
  ['data without an id is appended every time', run(data(1), data(1))],
  ['data of one type and id is replaced in place', run(data(1, { id: 'd' }), text('t', 'a'), data(2, { id: 'e' }), { ...data(3, { id: 'd' }), type: 'data-q' }, data({ v: 4 }, { id: 'd' }))],
  ['data is replaced in an earlier step', run(data(1, { id: 'd' }), stepEnd, step, data(null, { id: 'd' }))],
  ['data is replaced in a continuation', run(data(1, { id: 'd' })), [start, data(2, { id: 'd' })]],
  ['transient data leaves no part', run(data(1, { transient: true }), data(2, { id: 'd', transient: false }), data(3, { id: 'd', transient: true }))],
  ['data dropped by reset-step comes anew', run(data(1, { id: 'd' }), reset, text('t', 'a'), data(2, { id: 'd' }))],
  ['files, sources, custom parts and steering', run(complete.filter(({ type }) => /^(file|reasoning-file|source-.*|custom|steering-message)$/.test(type)))],
  ['the same source twice', run({ type: 'source-url', sourceId: 's', url: 'u' }, { type: 'source-url', sourceId: 's', url: 'u' })],
];

export const scenarios = [...frame, ...metadata, ...prose, ...steps, ...calls, ...others];
