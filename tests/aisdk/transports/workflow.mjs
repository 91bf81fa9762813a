// The transport of `@workflow/ai` with an `api`, and nothing else: `node workflow.mjs '{"api": "http://…", "body": {…}}'`.
// Its connection breaks behind the first events, so it resumes where it does by default. With `history` it answers
// the question that is stored there, and only the response to that breaks. Prints one JSON line.
import { WorkflowChatTransport } from '@workflow/ai';

const { api, body, text: said, cutAfter, history } = JSON.parse(process.argv[2]);
let left = history ? Infinity : cutAfter;
const urls = [];
console.error = () => {}; // it says so when its connection breaks

/** A response whose connection breaks behind `events` events. */
function cut(response, events) {
  let left = events;
  const decoder = new TextDecoder();
  const breaking = new TransformStream({
    transform(bytes, controller) {
      const frames = decoder.decode(bytes, { stream: true }).split(/(?<=\n\n)/);
      for (const frame of frames) {
        if (left-- <= 0) return controller.error(new TypeError('network error'));
        controller.enqueue(new TextEncoder().encode(frame));
      }
    },
  });
  return new Response(response.body.pipeThrough(breaking), response);
}

const transport = new WorkflowChatTransport({
  api,
  async fetch(url, init) {
    const response = await fetch(url, init);
    urls.push({ method: init.method ?? 'GET', path: String(url).slice(new URL(api).origin.length), status: response.status });
    return init.method === 'POST' && response.ok ? cut(response, left) : response;
  },
});

const chunks = [];
let error;

async function send(messages) {
  chunks.length = 0;
  try {
    const stream = await transport.sendMessages({ chatId: 'chat-1', messages, trigger: 'submit-message', body });
    for await (const chunk of stream) chunks.push(chunk);
  } catch (fault) {
    error = String(fault);
  }
}

await send([{ id: 'm1', role: 'user', parts: [{ type: 'text', text: said }] }]);
if (history) {
  const { messages } = await (await fetch(history)).json();
  for (const part of messages.at(-1).parts) {
    if (part.state !== 'approval-requested') continue;
    Object.assign(part, { state: 'approval-responded', approval: { ...part.approval, approved: true } });
  }
  left = cutAfter;
  await send(messages);
}
const text = chunks.filter(chunk => chunk.type === 'text-delta').map(chunk => chunk.delta).join('');
const types = chunks.map(chunk => chunk.type);
process.stdout.write(`${JSON.stringify({ urls, text, types, last: chunks.at(-1)?.type, error })}\n`);
