// Writes fold.json and partial-json.json: what the real AI SDK client makes of chunks, and of cut-off JSON.
//
//   npm ci && npm run generate
//
// Every vector goes the way of a browser's answer: SSE bytes, the client's parser and schema, its reducer, its Chat.
// The seed is fixed, so the files change only when the scenarios or the client do.
import { readFileSync, writeFileSync } from 'node:fs';
import { AbstractChat, DefaultChatTransport, parsePartialJson } from 'ai';
import { scenarios } from './scenarios.mjs';
import { sensibleRun, seeded, wildRun } from './fuzz.mjs';
import { wireCases } from './wire.mjs';

const SEED = 20260;
const SENSIBLE_RUNS = 60;
const WILD_RUNS = 70;
const BROKEN_TEXTS = 900;

const { version } = JSON.parse(readFileSync(new URL('./node_modules/ai/package.json', import.meta.url)));
const plain = value => (value === undefined ? undefined : JSON.parse(JSON.stringify(value)));

/** The state a Chat needs, without a framework. */
class State {
  status = 'ready';
  error = undefined;
  experimental_queuedMessages = [];
  constructor(messages) {
    this.messages = messages;
  }
  pushMessage = message => void (this.messages = [...this.messages, message]);
  popMessage = () => void (this.messages = this.messages.slice(0, -1));
  replaceMessage = (at, message) => void (this.messages = this.messages.with(at, this.snapshot(message)));
  snapshot = value => structuredClone(value);
}

class Chat extends AbstractChat {
  constructor({ messages, ...init }) {
    super({ ...init, state: new State(messages) });
  }
}

const sse = raws => raws.map(raw => `data: ${raw}\n\n`).join('') + 'data: [DONE]\n\n';

/** What a Chat ends up with that gets `chunks` as the answer, going on from `message` if there is one. */
async function fold(chunks, message) {
  const user = { id: 'u1', role: 'user', parts: [{ type: 'text', text: 'hi' }] };
  const expect = {};
  const chat = new Chat({
    id: 'chat',
    messages: [user, ...(message ? [structuredClone(message)] : [])],
    generateId: () => 'client',
    transport: new DefaultChatTransport({
      fetch: async () => new Response(sse(chunks.map(chunk => JSON.stringify(chunk)))),
    }),
    onError: error => (expect.error = { name: error.name, message: error.message.slice(0, 120) }),
    onFinish: ({ message: last, finishReason }) => Object.assign(expect, plain({ message: last, finishReason })),
  });
  await chat.sendMessage();
  return expect;
}

/** Whether the client's schema takes this text as a chunk. */
async function isAccepted(raw) {
  const bytes = new Response(sse([raw])).body;
  try {
    for await (const _ of new DefaultChatTransport().processResponseStream(bytes));
    return true;
  } catch {
    return false;
  }
}

async function folds() {
  const vectors = [];
  for (const [name, chunks, ...continuations] of scenarios) {
    let message;
    for (const [at, part] of [chunks, ...continuations].entries()) {
      const vector = { name: at ? `${name}, continuation ${at}` : name, message, chunks: part };
      vectors.push({ ...vector, expect: await fold(part, message) });
      message = vectors.at(-1).expect.message;
    }
  }
  const random = seeded(SEED);
  for (let n = 0; n < SENSIBLE_RUNS; n++) {
    const [chunks, continuation] = sensibleRun(random);
    const expect = await fold(chunks);
    vectors.push({ name: `sensible ${n}`, chunks, expect });
    if (continuation.length) {
      const vector = { name: `sensible ${n}, continuation 1`, message: expect.message, chunks: continuation };
      vectors.push({ ...vector, expect: await fold(continuation, expect.message) });
    }
  }
  for (let n = 0; n < WILD_RUNS; n++) {
    const chunks = wildRun(random);
    const before = n % 3 ? undefined : (await fold(wildRun(random))).message;
    vectors.push({ name: `wild ${n}`, message: before, chunks, expect: await fold(chunks, before) });
  }
  return vectors;
}

async function wire() {
  const cases = [];
  for (const [name, raw] of wireCases()) cases.push({ name, raw, isAccepted: await isAccepted(raw) });
  return cases;
}

const TEXTS = [
  '{"a":1,"b":[true,false,null],"c":"x\\u00e9y\\n\\"z","d":{"e":-1.5e3}}',
  '[1,2,{"k":"v"}]',
  '"str"',
  'null',
  '-12.5e+3',
  '[1e-2,-0,0.5,1E9]',
  ' \t\r\n{ "a" : [ 1 , 2 ] , "b" : { } } ',
  '[[],[[]],{},{"a":{}}]',
  '{"a":"\\\\","b":"\\u12"}',
  '{"a":"\\x"}',
  '{"é":"ü😀ß","😀":1}',
  '{"a\\"b":[1],"\\\\":"\\"","\\"":":"}',
  '{"a":1,"a":2}',
  '{"__proto__":{"x":1}}',
  '{"\\u005f_proto__":1}',
  '{"a":"__proto__","b":["__proto__"]}',
  '{"constructor":{"prototype":1}}',
  '{"constructor":{"prototypes":1},"prototype":{}}',
  '{"a":{"__proto__":1},"a":2}',
  '[9007199254740991,9007199254740992,9007199254740993,12345678901234567890]',
  '[1e308,1e309,-1e999,123456789012345678901234567890123456789]',
  '{"n":NaN}',
  '[Infinity,-Infinity]',
  '{a:1}',
  "{'a':1}",
  '[1,,2]',
  '[1,]',
  '{"a":.5}',
  '[01]',
  '{"a":1}}',
  '[1] 2',
  '// no\n1',
  '\ufeff{"a":1}',
  '\u00a0[1]',
  '["a\tb"]',
  '["a\u2028b\u007f"]',
  '[truefalse,nul]',
  '[tru,1]',
  '{"a":true x,"b":2}',
  '[1 2 3]',
  '{"a":1 2,"b":3}',
  '[1+2,3]',
  '{"a" 1,"b"::2}',
];

async function read(text) {
  const { state, value } = await parsePartialJson(text);
  return plain({ text, state, value });
}

/** Every beginning of every text, cut between characters, and short texts of JSON's own letters in any order. */
async function partialJson() {
  const texts = new Set();
  for (const text of TEXTS) {
    const letters = [...text];
    for (let end = 0; end <= letters.length; end++) texts.add(letters.slice(0, end).join(''));
  }
  const random = seeded(SEED + 1);
  const tokens = ['{', '}', '[', ']', '"', '"a":', ':', ',', '\\', '\\u00', 'e', '1', '0', '-', '.', 't', 'rue', 'nul', 'f', ' '];
  for (let n = 0; n < BROKEN_TEXTS; n++) {
    texts.add(Array.from({ length: 1 + random.below(9) }, () => random.pick(tokens)).join(''));
  }
  return Promise.all([...texts].map(read));
}

const lines = list => `[\n${list.map(item => JSON.stringify(item)).join(',\n')}\n]`;
const write = (name, text) => writeFileSync(new URL(name, import.meta.url), text);

write('fold.json', `{"ai":"${version}","folds":${lines(await folds())},"wire":${lines(await wire())}}\n`);
write('partial-json.json', `{"ai":"${version}","reads":${lines(await partialJson())}}\n`);
