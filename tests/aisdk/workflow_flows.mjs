// What a chat with the transport of @ai-sdk/workflow does, which counts events and goes on by their number.
import { strict as assert } from 'node:assert';

import { until, workflowTransport } from './client.mjs';
import { LONG } from './scene.mjs';

async function workflow(scene, options) {
  const Transport = await workflowTransport();
  return (fetch, api) =>
    new Transport({
      api,
      fetch,
      prepareSendMessagesRequest: ({ id, messages, trigger, messageId }) => ({
        body: { id, messages, trigger, messageId },
      }),
      ...options,
    });
}

const starts = tab => tab.wire.requests.map(one => new URL(one.url).searchParams.get('startIndex'));

/** After another request there and back, nothing more was asked: it does not poll. */
async function assertQuiet(scene, tab) {
  await scene.history();
  await new Promise(setImmediate);
  assert.equal(tab.wire.requests.length, 1);
}

export const WORKFLOW_FLOWS = {
  async 'workflow: stop, and send at once'(scene) {
    const tab = scene.tab([], { transport: await workflow(scene) });
    const said = tab.say(LONG);
    await tab.sees(' 3');
    await tab.chat.stop();
    await said;
    await tab.say('hello');
    assert.deepEqual([tab.chat.status, tab.errors, tab.chat.messages.length], ['ready', [], 4]);
    assert.match(tab.text, /^You said: hello/);
    await scene.same(await scene.reload());
  },

  async 'workflow: cut twice'(scene) {
    const tab = scene.tab([], { transport: await workflow(scene) });
    tab.wire.cutAfter = 7;
    const said = tab.say(LONG);
    await until(() => tab.wire.requests[1]?.events > 3, 'the second response');
    tab.wire.cutAfter = tab.wire.requests[1].events + 2;
    await until(() => tab.wire.requests[2]?.events > 3, 'the third response');
    await scene.end([tab], [said]);
    const [first, second] = tab.wire.requests.map(one => one.events);
    assert.deepEqual(starts(tab), [null, '7', String(7 + second)]);
    assert.equal(first, 7);
    await scene.same(tab);
  },

  async 'workflow: cut behind a decision'(scene) {
    const tab = scene.tab([], { transport: await workflow(scene) });
    await tab.say('delete a.txt');
    tab.wire.cutAfter = 3;
    await tab.decide({ 'a.txt': true });
    await tab.settled();
    await scene.over();
    assert.deepEqual(starts(tab), [null, null, '3']);
    assert.match(tab.wire.requests[2].url, /run_[^/]*\.1\/stream/);
    assert.deepEqual([tab.text, tab.errors], ['a.txt is deleted.', []]);
    await scene.same(tab);
  },

  async 'workflow: the last events'(scene) {
    const writer = scene.tab();
    const said = writer.say('sleep 2');
    await until(() => writer.tools('input-available').length, 'the call');
    const tab = scene.tab(await scene.history(), { transport: await workflow(scene, { initialStartIndex: -2 }) });
    tab.wire.cutAfter = 6;
    await tab.chat.resumeStream();
    await said;
    const tail = Number(tab.wire.requests[0].tail);
    assert.ok(tail > 3);
    assert.deepEqual(starts(tab), ['-2', String(tail + 1 - 2 + 6)]);
    assert.equal(tab.text, 'I slept for 2 seconds.');
    await scene.same(writer);
  },

  async 'workflow: interrupt'(scene) {
    const tab = scene.tab([], { transport: await workflow(scene) });
    const said = tab.say(LONG);
    await scene.end([tab], [said]);
    await assertQuiet(scene, tab);
    await scene.same(tab);
  },

  async 'workflow: an error'(scene) {
    const tab = scene.tab([], { transport: await workflow(scene) });
    await tab.say('fail');
    assert.equal(tab.chat.status, 'error');
    await scene.over();
    await assertQuiet(scene, tab);
    await scene.same(tab);
  },
};
