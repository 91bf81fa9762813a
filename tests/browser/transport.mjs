// The transport under the real client of npm `ai`, against a server that misbehaves as it is told: `node --test`.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import test, { describe, it } from 'node:test';

import { Chat } from '@ai-sdk/react';

import { Answer, RejoinChatTransport, Sent } from '../../clients/js/rejoin.js';

const RUN = 'run_1';
const text = (delta) => ({ type: 'text-delta', id: 't', delta });
const STEP = [{ type: 'start', messageId: 'a1' }, { type: 'start-step' }, { type: 'text-start', id: 't' }];
const END = [{ type: 'text-end', id: 't' }, { type: 'finish-step' }, { type: 'finish', finishReason: 'stop' }];
const WHOLE = [...STEP, ...['one', ' two', ' three', ' four'].map(text), ...END];

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** A server that answers each request by the next of `script`, and remembers what it was asked. */
async function serving(t, script) {
  const asked = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const piece of request) body += piece;
    asked.push({ method: request.method, url: request.url, headers: request.headers, body: body && JSON.parse(body) });
    await script[Math.min(asked.length, script.length) - 1](response, request);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => (server.closeAllConnections(), server.close()));
  return { asked, api: `http://127.0.0.1:${server.address().port}/api/chat` };
}

const frame = (chunk, index) => `id: 7-${index}\ndata: ${JSON.stringify(chunk)}\n\n`;
const begin = (response, run = RUN) => response.writeHead(200, { 'content-type': 'text/event-stream', 'x-workflow-run-id': run });
/** These events of a run, and then: `done`, `cut` (a reset), or `end` (a body that ends politely, and is not whole). */
const say = (chunks, from, then) => (response) => {
  begin(response);
  response.write(chunks.map((chunk, at) => frame(chunk, from + at)).join(''), () => {
    if (then === 'cut') setTimeout(() => response.destroy(), 20);
    else response.end(then === 'done' ? 'data: [DONE]\n\n' : '');
  });
};
const refuse = (status, headers = {}) => (response) => response.writeHead(status, headers).end('{"detail":"no"}');
const vanish = (response) => response.destroy();

async function chatted(t, script, options = {}) {
  const server = await serving(t, script);
  const errors = [];
  const chat = new Chat({ id: 'c1', transport: new RejoinChatTransport({ api: server.api, ...options }), onError: (fault) => errors.push(fault) });
  return { ...server, chat, errors };
}

const shown = (chat) => chat.messages.at(-1).parts.filter((part) => part.type === 'text').map((part) => part.text).join('|');

async function whole(t, script, options) {
  const all = await chatted(t, script, options);
  await all.chat.sendMessage({ text: 'count' });
  assert.deepEqual(all.errors, []);
  assert.equal(all.chat.status, 'ready');
  assert.equal(shown(all.chat), 'one two three four');
  assert.equal(all.chat.messages.length, 2);
  return all;
}

describe('cuts', { concurrency: true }, () => {
  it('a stream of which only [DONE] was cut off is whole: the server says 204', async (t) => {
    const { asked } = await whole(t, [say(WHOLE, 0, 'cut'), (response) => response.writeHead(204).end()]);
    assert.deepEqual(asked.map(({ headers }) => headers['last-event-id']), [undefined, `7-${WHOLE.length - 1}`]);
  });
  for (let at = 0; at < WHOLE.length; at += 1) {
    for (const then of ['cut', 'end']) {
      it(`a stream that breaks (${then}) after ${at} events is whole in the client`, async (t) => {
        const rest = say(WHOLE.slice(at), at, 'done');
        const { asked } = await whole(t, [say(WHOLE.slice(0, at), 0, then), rest]);
        assert.equal(asked.length, 2);
        const [posted, again] = asked;
        if (at === 0) {
          assert.equal(again.method, 'POST');
          assert.deepEqual(again.body, posted.body);
          assert.equal(again.headers['idempotency-key'], posted.headers['idempotency-key']);
        } else {
          assert.equal(again.url, `/api/chat/${RUN}/stream?ui=7`);
          assert.equal(again.headers['last-event-id'], `7-${at - 1}`);
        }
      });
    }
  }
});

test('a gateway that is away, in each way, is asked again and the request is one', async (t) => {
  const { asked } = await whole(t, [vanish, refuse(503, { 'retry-after': '0' }), refuse(502), say(WHOLE, 0, 'done')]);
  assert.equal(new Set(asked.map(({ headers }) => headers['idempotency-key'])).size, 1);
  assert.deepEqual(asked.map(({ method }) => method), ['POST', 'POST', 'POST', 'POST']);
});

test('a gateway that is away while it reconnects is asked again', async (t) => {
  await whole(t, [say(WHOLE.slice(0, 4), 0, 'cut'), refuse(503), vanish, say(WHOLE.slice(4), 4, 'done')]);
});

test('410 starts over by replay, and what was shown is not shown again', async (t) => {
  const { asked } = await whole(t, [say(WHOLE.slice(0, 5), 0, 'cut'), refuse(410), say(WHOLE, 0, 'done')]);
  assert.equal(asked[2].method, 'POST');
  assert.equal(asked[2].headers['last-event-id'], undefined);
});

test('410 and an open step that went differently: the step is taken back', async (t) => {
  const before = [...STEP, text('one'), text(' too'), text(' many')];
  await whole(t, [say(before, 0, 'cut'), refuse(410), say(WHOLE, 0, 'done')]);
});

test('410 and a replay that breaks as well is whole', async (t) => {
  await whole(t, [say(WHOLE.slice(0, 6), 0, 'cut'), refuse(410), say(WHOLE.slice(0, 4), 0, 'cut'), say(WHOLE.slice(4), 4, 'done')]);
});

test('a step that is over and went differently is a lost connection, which resumeStream mends', async (t) => {
  const second = [{ type: 'start-step' }, { type: 'text-start', id: 'u' }, { type: 'text-delta', id: 'u', delta: 'x' }];
  const before = [...STEP, text('eins'), ...END.slice(0, 2), ...second];
  const { chat, errors } = await chatted(t, [say(before, 0, 'cut'), refuse(410), say(WHOLE, 0, 'done'), say(WHOLE, 0, 'done')]);
  await chat.sendMessage({ text: 'count' });
  assert.match(errors[0].message, /^network error/);
  await chat.resumeStream();
  assert.equal(shown(chat), 'one two three four');
  assert.equal(chat.status, 'ready');
});

test('a refusal is an error with the server’s words, and is not asked again', async (t) => {
  const { asked, chat, errors } = await chatted(t, [refuse(409)]);
  await chat.sendMessage({ text: 'count' });
  assert.equal(errors[0].message, 'no');
  assert.equal(errors[0].status, 409);
  assert.equal(asked.length, 1);
});

test('patience ends', async (t) => {
  const { chat, errors } = await chatted(t, [vanish], { retryForMs: 600 });
  await chat.sendMessage({ text: 'count' });
  assert.match(errors[0].message, /no answer for too long/);
});

test('stop() ends the reading, also between two tries', async (t) => {
  let stop;
  const { chat, errors } = await chatted(t, [say(WHOLE.slice(0, 5), 0, 'cut'), (response) => (refuse(503)(response), setTimeout(stop, 5))]);
  stop = () => chat.stop();
  await chat.sendMessage({ text: 'count' });
  assert.equal(chat.status, 'ready');
  assert.deepEqual(errors, []);
  assert.equal(shown(chat), 'one two');
});

test('resumeStream shows a running answer from its first event, and goes on through a break', async (t) => {
  const { chat, asked } = await chatted(t, [say(WHOLE.slice(0, 5), 0, 'end'), say(WHOLE.slice(5), 5, 'done')]);
  await chat.resumeStream();
  assert.equal(shown(chat), 'one two three four');
  assert.deepEqual(asked.map(({ url }) => url), ['/api/chat/c1/stream?ui=7', `/api/chat/${RUN}/stream?ui=7`]);
});

test('resumeStream with nothing running is nothing', async (t) => {
  const { chat, errors } = await chatted(t, [(response) => response.writeHead(204).end()]);
  await chat.resumeStream();
  assert.deepEqual([chat.status, chat.messages, errors], ['ready', [], []]);
});

test('headers, body, a query and the version are sent with every request', async (t) => {
  const server = await serving(t, [say(WHOLE.slice(0, 4), 0, 'cut'), say(WHOLE.slice(4), 4, 'done')]);
  const transport = new RejoinChatTransport({ api: `${server.api}?a=1`, ui: 6, headers: async () => ({ 'X-Agent-Id': 'demo' }), body: () => ({ extra: 1 }) });
  const chat = new Chat({ id: 'c1', transport });
  await chat.sendMessage({ text: 'count' }, { headers: { 'x-more': '2' } });
  assert.deepEqual(server.asked.map(({ url }) => url), ['/api/chat?a=1&ui=6', `/api/chat/${RUN}/stream?a=1&ui=6`]);
  for (const { headers } of server.asked) assert.deepEqual([headers['x-agent-id'], headers['x-more']], ['demo', '2']);
  assert.equal(server.asked[0].body.extra, 1);
  assert.equal(shown(chat), 'one two three four');
});

test('a message for the run that works is JSON, or the stream of a turn of its own, which is left', async (t) => {
  const accept = (response) => {
    response.writeHead(200, { 'content-type': 'application/json' }).end('{"success":true,"steering":true}');
  };
  const { asked, api } = await serving(t, [accept, vanish, accept, say(WHOLE, 0, 'done')]);
  const states = []; // those of the answer that the message steers, not of its sending
  const transport = new RejoinChatTransport({ api, body: { app: 1 }, onState: (state) => states.push(state) });
  assert.deepEqual(await transport.steer('c1', { id: 'm1', parts: [{ type: 'text', text: 'faster' }] }), { steering: true, messageId: 'm1' });
  const { steering, messageId } = await transport.steer('c1', 'slower');
  assert.equal(steering, true);
  assert.deepEqual(asked[1].body, asked[2].body); // asked again: the message's id makes it one
  assert.deepEqual(asked[2].body, {
    app: 1, id: 'c1', trigger: 'submit-message', whenBusy: 'steer',
    messages: [{ role: 'user', id: messageId, parts: [{ type: 'text', text: 'slower' }] }],
  });
  assert.equal((await transport.steer('c1', 'later')).steering, false);
  assert.deepEqual(states, []);
});

test('interrupt stops the run', async (t) => {
  const server = await serving(t, [(response) => response.writeHead(200).end('{"success":true,"interrupted":true}')]);
  const transport = new RejoinChatTransport({ api: server.api });
  assert.deepEqual(await transport.interrupt('c1'), { success: true, interrupted: true });
  assert.deepEqual([server.asked[0].method, server.asked[0].url], ['POST', '/api/chat/c1/stop?ui=7']);
  assert.deepEqual(server.asked[0].body, {});
});

test('interrupt names what the user has seen, and the message that is still being sent', async (t) => {
  const stopped = (response) => response.writeHead(200).end('{"success":true,"interrupted":true}');
  let late;
  const server = await serving(t, [(response) => (late = response), stopped, stopped]);
  const transport = new RejoinChatTransport({ api: server.api });
  const messages = [{ id: 'm1', role: 'user', parts: [] }];
  const sending = transport.sendMessages({ chatId: 'c1', messages, trigger: 'submit-message' });
  while (!late) await new Promise((resolve) => setTimeout(resolve, 1));
  await transport.interrupt('c1');
  say(WHOLE, 0, 'done')(late);
  for await (const _ of await sending) void _;
  const lastPart = { type: 'text', text: 'one tw' };
  await transport.interrupt('c1', { lastPart });
  assert.deepEqual(server.asked.slice(1).map(({ body }) => body), [{ messageId: 'm1' }, { lastPart }]);
});

test('a socket that is held open and says nothing more is left; its events come once, the rest elsewhere', async (t) => {
  let left;
  const gone = new Promise((resolve) => (left = resolve));
  const hold = (response) => (begin(response).write(WHOLE.slice(0, 5).map(frame).join('')), response.on('close', left));
  const { asked } = await whole(t, [hold, say(WHOLE.slice(5), 5, 'done')], { readTimeoutMs: 100 });
  await gone;
  assert.deepEqual(asked.map(({ method, headers }) => [method, headers['last-event-id']]), [['POST', undefined], ['GET', '7-4']]);
});

/** An answer by hand, whose silences pass when the test says so, and whose pauses take no time. */
async function clocked(t, script) {
  const server = await serving(t, script);
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const answer = new Answer({
    open: (signal) => fetch(server.api, { method: 'POST', signal }),
    resume: ({ cursor }, signal) => fetch(server.api, { headers: { 'last-event-id': cursor }, signal }),
    onState: ({ state }) => state === 'reconnecting' && setImmediate(() => t.mock.timers.tick(400)),
  });
  return { ...server, answer, pass: async (ms) => (await turn(), t.mock.timers.tick(ms)) };
}

test('a stream that says nothing for 30 s is dead, and goes on elsewhere', async (t) => {
  let open;
  const half = (response) => (begin(response), response.write(WHOLE.slice(0, 4).map(frame).join('')), (open = response));
  const { asked, answer, pass } = await clocked(t, [half, say(WHOLE.slice(5), 5, 'done')]);
  assert.equal(await answer.begin(), true);
  const events = answer.events();
  const next = async () => (await events.next()).value.chunk;
  for (const chunk of WHOLE.slice(0, 4)) assert.deepEqual(await next(), chunk);
  const fifth = next();
  await pass(29_999);
  open.write(frame(WHOLE[4], 4));
  assert.deepEqual(await fifth, WHOLE[4]);
  const sixth = next();
  await pass(29_999);
  await turn();
  assert.deepEqual([asked.length, answer.breaks], [1, 0]);
  await pass(1);
  assert.deepEqual(await sixth, WHOLE[5]);
  assert.deepEqual([asked.length, answer.breaks, asked[1].headers['last-event-id']], [2, 1, '7-4']);
});

test('a request that is not answered for 30 s is made again', async (t) => {
  let arrived;
  const silent = new Promise((resolve) => (arrived = resolve));
  const { asked, answer, pass } = await clocked(t, [arrived, say(WHOLE, 0, 'done')]);
  const begun = answer.begin();
  await silent;
  await pass(30_000);
  assert.equal(await begun, true);
  assert.deepEqual(asked.map(({ method }) => method), ['POST', 'POST']);
});

test('who leaves between two tries asks no more', async (t) => {
  const server = await serving(t, [say(WHOLE.slice(0, 4), 0, 'cut'), say(WHOLE.slice(4), 4, 'done')]);
  const asking = (signal) => fetch(server.api, { signal });
  const answer = new Answer({ open: asking, resume: (_, signal) => asking(signal), onState: ({ state }) => state === 'reconnecting' && answer.leave() });
  await answer.begin();
  const heard = [];
  for await (const { chunk } of answer.events()) heard.push(chunk);
  assert.deepEqual([heard, server.asked.length], [WHOLE.slice(0, 4), 1]);
});

test('onState tells of the break', async (t) => {
  const states = [];
  await whole(t, [say(WHOLE.slice(0, 4), 0, 'cut'), say(WHOLE.slice(4), 4, 'done')], { onState: ({ state, breaks }) => states.push(`${state} ${breaks}`) });
  assert.deepEqual(states, ['waiting 0', 'streaming 0', 'reconnecting 1', 'streaming 1']);
});

test('the message of useChat says why its answer ended early', async (t) => {
  const finish = { type: 'finish', finishReason: 'length', messageMetadata: { finishDetail: 'It is cut off.' } };
  const { chat } = await whole(t, [say([...WHOLE.slice(0, -1), finish], 0, 'done')]);
  assert.deepEqual(chat.messages.at(-1).metadata, { finishDetail: 'It is cut off.' });
});

test('a repetition that ends earlier than before is taken back to its end', () => {
  const sent = new Sent();
  for (const chunk of WHOLE.slice(0, 7)) sent.take(chunk);
  sent.again();
  const handed = WHOLE.slice(0, 5).flatMap((chunk) => sent.take(chunk));
  assert.deepEqual(handed, []);
  assert.deepEqual(sent.end(), [{ type: 'reset-step' }, ...WHOLE.slice(2, 5)]);
});
