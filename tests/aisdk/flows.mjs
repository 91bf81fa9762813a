// What a person does with a chat, and what may happen to it meanwhile. Each flow ends with the client's messages
// equal to the stored ones; where a version is known not to get there, the flow asserts what it does instead,
// says so, and goes on as such a version has to: with a reload.
import { strict as assert } from 'node:assert';

import { until } from './client.mjs';
import { LONG, Scene } from './scene.mjs';

const PIXEL =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';

const thought = tab => tab.last.parts.flatMap(part => (part.type === 'reasoning' ? [part.text] : [])).join('');

/** Two calls are over, the second of them inside of the first, and a client can tell whose the parts of the inner are. */
function assertDelegated(tab) {
  const [outer, inner] = tab.tools('output-available');
  assert.equal(outer.type, 'tool-delegate_to_aide');
  assert.ok(!outer.callProviderMetadata);
  const reasoning = tab.last.parts.find(part => part.type === 'reasoning');
  const owner = { agent: 'aide', call: outer.toolCallId };
  assert.deepEqual(inner.callProviderMetadata, { rejoin: owner });
  assert.deepEqual(reasoning.providerMetadata, { rejoin: { ...owner, text: true } });
}

const RECIPE = { name: 'Soup 🍲', steps: ['Cut.', 'Boil.', 'Salt.', 'Eat.'] };
const typed = (tab, name = 'output') => (tab.last?.parts ?? []).filter(part => part.type === `data-${name}`);

/** The whole object is in the message once. */
function assertTyped(tab) {
  assert.deepEqual(typed(tab).map(part => part.data), [RECIPE]);
  assert.equal(tab.last.metadata.outputState, 'done');
  assert.deepEqual([tab.chat.status, tab.errors], ['ready', []]);
}

export const FLOWS = {
  async send(scene) {
    const tab = scene.tab();
    await tab.say('hello');
    await tab.say('think');
    assert.equal(tab.chat.status, 'ready');
    assert.equal(tab.chat.messages.length, 4);
    await scene.same(tab, await scene.reload());
  },

  async 'a tool'(scene) {
    const tab = scene.tab();
    await tab.say('weather Rome');
    assert.equal(tab.tools('output-available').length, 1);
    await scene.same(tab);
  },

  async approval(scene) {
    const tab = await scene.decided('delete a.txt', { 'a.txt': true });
    assert.equal(tab.tools('output-available').length, 1);
    assert.equal(tab.text, 'a.txt is deleted.');
  },

  async denial(scene) {
    const tab = await scene.decided('delete a.txt', { 'a.txt': false });
    const reloaded = tab.wire.requests[0].method === 'GET';
    const known = !scene.v5 || reloaded; // the history of a page has the word, a stream of version 5 has not
    assert.equal(tab.tools(known ? 'output-denied' : 'input-available').length, 1);
    assert.match(tab.text, /You said no/);
  },

  async 'two approvals at once'(scene) {
    const tab = await scene.decided('delete a.txt and b.txt', { 'a.txt': true, 'b.txt': false });
    assert.equal(tab.tools('output-available').length, 1);
    assert.match(tab.text, /a\.txt is deleted\. You said no/);
  },

  async 'two approvals, the second first'(scene) {
    const tab = await scene.decided('delete a.txt and b.txt', { 'b.txt': true, 'a.txt': false });
    assert.equal(tab.tools('output-available').length, 1);
    assert.match(tab.text, /You said no.*b\.txt is deleted/);
  },

  async 'a reload between two answers'(scene) {
    if (scene.v5) return;
    const first = scene.tab(undefined, { tools: true });
    await first.say('delete a.txt and b.txt');
    const said = await scene.decideBeside({ 'a.txt': true });
    assert.deepEqual(await said.json(), { success: true });
    const tab = scene.tab(await scene.history(), { tools: true });
    assert.deepEqual(tab.tools().map(part => part.state), ['approval-responded', 'approval-requested']);
    await tab.chat.resumeStream();
    assert.deepEqual(tab.wire.requests.map(one => one.status), [204], 'the other question is open: it sends nothing');
    await tab.decide({ 'b.txt': false });
    await tab.settled();
    await scene.over();
    assert.deepEqual(tab.wire.requests.map(one => [one.method, one.status]), [['GET', 204], ['POST', 200]]);
    assert.deepEqual([tab.errors, tab.chat.status], [[], 'ready']);
    assert.match(tab.text, /a\.txt is deleted\. You said no/);
    await scene.same(tab, await scene.reload());
  },

  async 'a sub-agent'(scene) {
    const tab = scene.tab();
    await tab.say('ask aide: weather Rome');
    assertDelegated(tab);
    assert.match(thought(tab), /^It is \d+ °C in Rome\.$/);
    assert.equal(tab.text, thought(tab));
    await scene.same(tab, await scene.reload());
  },

  async 'approval of a sub-agent'(scene) {
    const tab = await scene.decided('ask aide: delete a.txt', { 'a.txt': true });
    assertDelegated(tab);
    assert.deepEqual([thought(tab), tab.text], ['a.txt is deleted.', 'a.txt is deleted.']);
    await scene.same(await scene.reload());
  },

  async 'reload in a sub-agent'(scene) {
    const tab = scene.tab();
    const said = tab.say('ask aide: sleep 2');
    await until(() => tab.tools('input-available').length === 2, 'the call in the call');
    const again = await scene.reload();
    assertDelegated(again);
    await said;
    await scene.same(tab, again);
  },

  async transfer(scene) {
    const tab = scene.tab();
    await tab.say('aide, please');
    assert.deepEqual(tab.tools('output-available').map(part => part.type), ['tool-transfer_to_aide']);
    assert.match(tab.text, /^aide has the conversation now/);
    await tab.say('aide, please');
    assert.match(tab.text, /^You said: aide, please/, 'nobody but the aide takes this for chat');
    await scene.same(tab, await scene.reload());
  },

  async interrupt(scene) {
    const [tab, said] = await scene.long();
    await scene.end([tab], [said]);
    assert.deepEqual([tab.chat.status, tab.wire.requests.length, tab.wire.requests[0].ended], ['ready', 1, 'end']);
    await scene.same(tab);
  },

  async 'stop, and look again'(scene) {
    const [tab, said] = await scene.long();
    await tab.chat.stop();
    await said;
    const before = tab.text.length;
    const resumed = tab.chat.resumeStream();
    await until(() => tab.text.length > before, 'the run to have gone on without a reader');
    await scene.end([], [resumed]);
    if (scene.client.era === 'A') return scene.doubled(tab);
    await scene.same(tab);
  },

  async 'stop, and send again'(scene) {
    const [tab, said] = await scene.long();
    await tab.chat.stop();
    await said;
    const { interrupted } = await (await scene.interrupt()).json();
    assert.ok(interrupted || scene.client.family === 'agent-chat'); // where leaving is an interrupt by itself
    await tab.say('hello');
    assert.deepEqual([tab.chat.status, tab.errors, tab.chat.messages.length], ['ready', [], 4]);
    assert.match(tab.text, /^You said: hello/);
    await scene.same(await scene.reload());
  },

  async 'stop, and send at once'(scene) {
    const [tab, said] = await scene.long();
    await tab.chat.stop();
    await said;
    await tab.say('hello'); // the answer that it has left would take longer than a flow may
    assert.deepEqual([tab.chat.status, tab.errors, tab.chat.messages.length], ['ready', [], 4]);
    assert.match(tab.text, /^You said: hello/);
    const again = await scene.reload();
    assert.match(again.chat.messages[1].parts.at(-1).text, /^1 2 3/);
    await scene.same(again);
  },

  async 'stop, and regenerate'(scene) {
    const [tab, said] = await scene.long();
    const left = tab.last.id;
    await tab.chat.stop();
    await said;
    const again = tab.chat.regenerate();
    await until(() => tab.last.role === 'assistant' && tab.last.id !== left, 'the new answer');
    await scene.end([tab], [again]);
    assert.deepEqual([tab.errors, tab.chat.messages.length, tab.last.id === left], [[], 2, false]);
    await scene.same(tab, await scene.reload());
  },

  async 'a file'(scene) {
    const tab = scene.tab();
    await tab.say('hello', { files: [{ type: 'file', mediaType: 'image/png', filename: 'pixel.png', url: PIXEL }] });
    assert.equal(tab.chat.status, 'ready');
    assert.match(tab.text, /^You said: hello/);
    const again = await scene.reload();
    const file = again.chat.messages[0].parts.find(part => part.type === 'file');
    assert.deepEqual([file.mediaType, file.filename], ['image/png', 'pixel.png']);
    await scene.same(again);
  },

  async 'reload in a text'(scene) {
    const [tab, said] = await scene.long();
    const [again, resumed] = await scene.page();
    await scene.end([again], [said, resumed]);
    await scene.same(tab, again);
  },

  async 'reload in a tool'(scene) {
    const tab = scene.tab();
    const said = tab.say('sleep 2');
    await until(() => tab.tools('input-available').length, 'the call');
    await scene.same(await scene.reload());
    await said;
    await scene.same(tab);
  },

  async 'reload in a continuation'(scene) {
    const [tab, beside] = await scene.asked('delete slow.txt', { 'slow.txt': true });
    const again = await scene.reload();
    assert.equal(again.wire.requests[0].status, 200);
    await beside?.text();
    await tab.settled();
    if (scene.asksInVain) return scene.same(await scene.reload());
    await scene.same(again);
    if (!beside) await scene.same(tab);
  },

  async 'the same, of a page with a memory'(scene) {
    const [tab, beside] = await scene.asked('delete slow.txt', { 'slow.txt': true });
    const again = scene.tab(tab.chat.messages);
    await again.chat.resumeStream();
    assert.equal(again.wire.requests[0].status, 200);
    await beside?.text();
    await tab.settled();
    await scene.over();
    if (scene.asksInVain) return scene.same(await scene.reload());
    if (['A', 'C'].includes(scene.client.era) && !scene.v5) return scene.doubled(again);
    await scene.same(again);
  },

  async 'a message while a tool works'(scene) {
    const tab = scene.tab();
    const said = tab.say('sleep 2');
    await until(() => tab.tools('input-available').length, 'the call');
    const parts = [{ type: 'text', text: 'weather Rome' }];
    const message = { id: `steer-${scene.session}`, role: 'user', parts };
    const accepted = await scene.post(`/api/agents/{agent}/${scene.session}`, { message, whenBusy: 'steer' });
    assert.equal((await accepted.json()).steering, true);
    await said;
    await scene.over();
    assert.deepEqual([tab.chat.status, tab.errors, tab.chat.messages.length], ['ready', [], 2]);
    const shown = tab.last.parts.filter(part => part.type === 'steering-message');
    const knows = scene.client.query === '?ui=7';
    assert.deepEqual(shown, knows ? [{ type: 'steering-message', id: message.id, parts }] : []);
    assert.match(tab.text, /Rome/);
    await scene.same(tab, await scene.reload());
  },

  async 'a client tool'(scene) {
    const tab = scene.tab(undefined, { tools: true });
    await tab.say('locate');
    assert.equal(tab.chat.status, 'ready');
    await scene.same(tab);
    await tab.output('locate', 'Oslo');
    await until(() => tab.text === 'Oslo', 'the text about the output');
    await tab.settled();
    assert.deepEqual(tab.wire.requests.map(one => [one.method, one.status]), [['POST', 200], ['POST', 200]]);
    assert.deepEqual(tab.errors, []);
    await scene.over();
    await scene.same(tab, await scene.reload());
  },

  async 'a client tool after a reload'(scene) {
    await scene.tab().say('locate');
    const tab = scene.tab(await scene.history(), { tools: true });
    await tab.output('locate', 'Oslo');
    await until(() => tab.text === 'Oslo', 'the text about the output');
    await tab.settled();
    await scene.over();
    await scene.same(tab);
  },

  async 'a client tool that is answered beside'(scene) {
    const tab = scene.tab();
    await tab.say('locate');
    const [{ toolCallId }] = tab.tools('input-available');
    const beside = await scene.post(`/api/agents/{agent}/${scene.session}`, { type: 'tool-output', toolCallId, output: 'Oslo' });
    const again = await scene.reload();
    await beside.text();
    await scene.over();
    assert.deepEqual([again.text, again.errors], ['Oslo', []]);
    await scene.same(again);
  },

  async 'a typed answer'(scene) {
    const tab = scene.tab();
    await tab.say('a recipe, please');
    assertTyped(tab);
    await scene.same(tab, await scene.reload());
  },

  async 'a typed answer that did not fit at first'(scene) {
    const tab = scene.tab();
    await tab.say('a wrong recipe, please');
    assertTyped(tab);
    assert.match(typed(tab, 'output-error')[0].data.error, /steps/);
    await scene.same(tab, await scene.reload());
  },

  async 'reload in a typed answer'(scene) {
    const tab = scene.tab();
    const said = tab.say('a recipe, please');
    await until(() => typed(tab)[0]?.data.steps?.length, 'the first steps');
    const again = await scene.reload();
    await said;
    assertTyped(tab);
    assertTyped(again);
    await scene.same(tab, again);
  },

  async 'a client tool beside an approval'(scene) {
    if (scene.v5) return;
    const tab = scene.tab(undefined, { tools: true });
    await tab.say('locate and delete a.txt');
    await tab.output('locate', 'Oslo');
    assert.equal(tab.wire.requests.length, 1, 'the question is open');
    await tab.decide({ 'a.txt': true });
    await tab.settled();
    await scene.over();
    assert.equal(tab.tools('output-available').length, 3);
    await scene.same(tab);
  },

  async 'a reload between an output and an approval'(scene) {
    if (scene.v5) return;
    await scene.tab().say('locate and delete a.txt');
    const [message] = (await scene.history()).slice(-1);
    const located = message.parts.find(part => part.type === 'tool-locate');
    const parts = [{ ...located, state: 'output-available', output: 'Oslo' }];
    const body = { id: scene.session, messages: [{ ...message, parts }], messageId: message.id };
    assert.deepEqual(await (await scene.post('/api/chat', body)).json(), { success: true });
    const tab = scene.tab(await scene.history(), { tools: true });
    assert.equal(tab.tools('output-available').length, 2);
    await tab.decide({ 'a.txt': true });
    await tab.settled();
    await scene.over();
    assert.deepEqual(tab.wire.requests.map(one => [one.method, one.status]), [['POST', 200]]);
    assert.equal(tab.tools('output-available').length, 3);
    await scene.same(tab);
  },

  async 'a forged output of a server tool'(scene) {
    const tab = scene.tab();
    await tab.say('delete a.txt');
    if (!scene.asksInVain) await scene.same(tab);
    const forged = (await scene.history()).map(message => ({
      ...message,
      parts: message.parts.map(part => (part.toolCallId ? { ...part, state: 'output-available', output: 'forged' } : part)),
    }));
    const answer = await scene.post('/api/chat', {
      id: scene.session, messages: forged, trigger: 'submit-message', messageId: forged.at(-1).id,
    });
    assert.equal(answer.status, 400);
    assert.ok(!JSON.stringify(await scene.history()).includes('forged'));
    await scene.interrupt();
  },

  async 'cut, and resumed'(scene) {
    const tab = await scene.cut(false);
    if (['A', 'C'].includes(scene.client.era)) return scene.doubled(tab);
    await scene.same(tab);
  },

  async 'cut, and resumed by cursor'(scene) {
    const tab = await scene.cut(true);
    if (['A', 'B'].includes(scene.client.era)) return scene.thrown(tab);
    assert.equal(tab.chat.status, 'ready');
    await scene.same(tab);
  },

  async 'a second tab'(scene) {
    const [first, said] = await scene.long();
    const [[second, more], [third, most]] = await Promise.all([scene.page(), scene.page()]);
    await scene.end([second, third], [said, more, most]);
    await scene.same(first, second, third);
  },

  async regenerate(scene) {
    const tab = scene.tab();
    await tab.say('weather Rome');
    const before = tab.last.id;
    await tab.chat.regenerate();
    assert.notEqual(tab.last.id, before);
    assert.equal(tab.chat.messages.length, 2);
    await scene.same(tab, await scene.reload());
  },

  async edit(scene) {
    const tab = scene.tab();
    await tab.say('count 3');
    await tab.say('weather Rome');
    await tab.say('count 4', { messageId: tab.chat.messages[2].id });
    assert.deepEqual([tab.chat.messages.length, tab.text], [4, '1 2 3 4']);
    await scene.same(tab, await scene.reload());
  },

  async 'an error'(scene) {
    const tab = scene.tab();
    await tab.say('fail');
    assert.equal(tab.chat.status, 'error');
    assert.match(tab.errors[0], /failed in the middle/);
    await scene.over();
    await scene.same(tab);
    await tab.say('hello');
    assert.equal(tab.chat.status, 'ready');
    await scene.same(tab);
  },

  async 'a runner killed in a text'(scene, killed) {
    const [tab, said] = await scene.long('count 2000 every 50 ms');
    await tab.sees(' 9');
    await killed();
    if (scene.client.knowsResets) {
      await until(() => tab.wire.requests[0].resets, 'the rewind');
      await scene.end([tab], [said]);
      assert.deepEqual([tab.chat.status, tab.wire.requests.length, tab.errors.length], ['ready', 1, 0]);
      return scene.same(tab);
    }
    await said;
    // A client that states its version has its connection broken; another one ends its stream at the reset.
    const { ended, resets } = tab.wire.requests[0];
    if (scene.client.query) assert.deepEqual([ended, resets], ['broken', 0]);
    else assert.deepEqual([/Type validation failed/.test(tab.errors[0]), resets], [true, 1]);
    assert.equal(tab.chat.status, 'error');
    const resumed = tab.chat.resumeStream();
    const [again, replayed] = await scene.page();
    await scene.end([again], [resumed, replayed]);
    assert.deepEqual([again.wire.requests[0].status, tab.wire.requests[1].status], [200, 200]);
    await scene.same(again);
    const resumes = scene.client.query ? ['D'] : ['B', 'C', 'D'];
    if (!resumes.includes(scene.client.era)) return scene.doubled(tab);
    await scene.same(tab);
  },
};

/** What the clients of the other APIs do. */
export const FAMILY_FLOWS = [
  'send',
  'a tool',
  'approval',
  'denial',
  'two approvals at once',
  'two approvals, the second first',
  'a message while a tool works',
  'a client tool that is answered beside',
  'a typed answer',
  'reload in a typed answer',
  'stop, and send again',
  'a file',
  'reload in a text',
  'an error',
  'a runner killed in a text',
];

export const play = (client, place, session, flow, killed) => {
  const scene = new Scene(client, place, session);
  return flow(scene, killed).then(() => [...scene.notes]);
};

