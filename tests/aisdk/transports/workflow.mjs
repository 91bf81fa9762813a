// The transport of `@workflow/ai` with an `api`, and nothing else: `node workflow.mjs '{"api": "http://…", "body": {…}}'`.
// Its connection breaks behind the first events, so it resumes where it does by default. Prints one JSON line.
import { WorkflowChatTransport } from '@workflow/ai';

const { api, body, cutAfter } = JSON.parse(process.argv[2]);
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
    return init.method === 'POST' && response.ok ? cut(response, cutAfter) : response;
  },
});

const messages = [{ id: 'm1', role: 'user', parts: [{ type: 'text', text: 'count 20 every 5 ms' }] }];
const chunks = [];
let error;
try {
  const stream = await transport.sendMessages({ chatId: 'chat-1', messages, trigger: 'submit-message', body });
  for await (const chunk of stream) chunks.push(chunk);
} catch (fault) {
  error = String(fault);
}
const text = chunks.filter(chunk => chunk.type === 'text-delta').map(chunk => chunk.delta).join('');
process.stdout.write(`${JSON.stringify({ urls, text, last: chunks.at(-1)?.type, error })}\n`);
