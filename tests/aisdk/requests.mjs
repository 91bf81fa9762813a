// What each version says of itself in the requests of a stock chat: `node requests.mjs 5.0.277 6.0.44 …`. Prints
// one JSON line: for each version the requests, without what is the chat's own (ids and texts).
import { client } from './client.mjs';

const ANSWER = [{ type: 'start' }, { type: 'finish' }].map(chunk => `data: ${JSON.stringify(chunk)}\n\n`).join('');

/** The fields of a body, and what is in them unless it is the chat's own. */
const shape = value =>
  Array.isArray(value)
    ? value.map(shape)
    : value && typeof value === 'object'
      ? Object.fromEntries(Object.keys(value).sort().map(key => [key, /^(id|text|messageId)$/.test(key) ? typeof value[key] : shape(value[key])]))
      : value;

async function requestsOf({ ai, react }) {
  const requests = [];
  const fetch = async (url, { method = 'GET', headers, body, credentials } = {}) => {
    const said = [...new Headers(headers)].sort();
    requests.push({ url, method, headers: Object.fromEntries(said), body: shape(body && JSON.parse(body)), credentials });
    return new Response(method === 'POST' ? ANSWER : null, { status: method === 'POST' ? 200 : 204 });
  };
  const chat = new react.Chat({ id: 'c1', transport: new ai.DefaultChatTransport({ fetch }) });
  await chat.sendMessage({ text: 'hello' });
  await chat.regenerate();
  await chat.resumeStream();
  return requests;
}

const found = {};
for (const version of process.argv.slice(2)) found[version] = await requestsOf(await client(version));
process.stdout.write(`${JSON.stringify(found)}\n`);
