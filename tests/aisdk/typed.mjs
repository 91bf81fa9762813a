// Typed answers in one version of the client: as a growing part of a chat, as the text of a chat, as a completion.
// `node typed.mjs BASE AGENT 7.0.173` prints what the client has: {growth, message, text, completion}.
import { client, until } from './client.mjs';

const [base, agent, version] = process.argv.slice(2);
const { ai, react } = await client(version);
const headers = { 'x-agent-id': agent };

async function chat(transport) {
  const growth = [];
  const tab = new react.Chat({ transport });
  const watch = tab['~registerMessagesCallback'](() => {
    const part = tab.lastMessage?.parts.find(one => one.type === 'data-output');
    if (part) growth.push(JSON.stringify(part.data));
  });
  await tab.sendMessage({ text: 'Soup' });
  await until(() => tab.status === 'ready', 'the end of the answer');
  watch();
  return { growth: [...new Set(growth)], message: tab.lastMessage };
}

const events = await chat(new ai.DefaultChatTransport({ api: `${base}/api/chat`, headers }));
const text = await chat(
  new ai.TextStreamChatTransport({ api: `${base}/api/chat`, headers: { ...headers, Accept: 'text/plain' } }),
);

/** `useCompletion` without React. */
function complete(streamProtocol, more) {
  return ai.callCompletionApi({
    api: `${base}/api/completion`, prompt: 'Soup', headers: { ...headers, ...more }, body: {}, streamProtocol,
    setCompletion: () => {}, setLoading: () => {}, setError: fault => { if (fault) throw fault; },
    setAbortController: () => {}, onFinish: undefined, onError: undefined,
    fetch: (...given) => globalThis.fetch(...given),
  });
}

process.stdout.write(`${JSON.stringify({
  growth: events.growth,
  output: events.message.parts.find(part => part.type === 'data-output'),
  state: events.message.metadata?.outputState,
  text: text.message.parts.filter(part => part.type === 'text').map(part => part.text).join(''),
  completion: await complete('text', { Accept: 'text/plain' }),
  events: await complete('data', {}),
})}\n`);
