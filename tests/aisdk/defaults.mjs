// What a question does to each version, if a stream has it and if it leaves it out: `node defaults.mjs 5.0.277 …`.
// Prints one JSON line: for each version and both streams the state of the call, and the error of the chat.
import { client } from './client.mjs';

const QUESTION = { type: 'tool-approval-request', approvalId: 'q1', toolCallId: 'c1' };
const CHUNKS = [
  { type: 'start', messageId: 'a1' },
  { type: 'start-step' },
  { type: 'tool-input-start', toolCallId: 'c1', toolName: 'delete' },
  { type: 'tool-input-available', toolCallId: 'c1', toolName: 'delete', input: {} },
  QUESTION,
  { type: 'finish-step' },
  { type: 'finish', finishReason: 'tool-calls' },
];

async function shown({ ai, react }, chunks) {
  const body = chunks.map(chunk => `data: ${JSON.stringify(chunk)}\n\n`).join('') + 'data: [DONE]\n\n';
  const fetch = async () => new Response(body, { headers: { 'content-type': 'text/event-stream' } });
  const errors = [];
  const transport = new ai.DefaultChatTransport({ fetch });
  const chat = new react.Chat({ id: 'c1', transport, onError: fault => errors.push(fault.name) });
  await chat.sendMessage({ text: 'delete it' });
  const call = chat.messages.at(-1).parts.find(part => part.toolCallId);
  return { state: call?.state, error: errors[0] ?? null };
}

const found = {};
for (const version of process.argv.slice(2)) {
  const one = await client(version);
  found[version] = { sent: await shown(one, CHUNKS), leftOut: await shown(one, CHUNKS.filter(chunk => chunk !== QUESTION)) };
}
process.stdout.write(`${JSON.stringify(found)}\n`);
