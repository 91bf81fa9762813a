// How a client made with `clients/js` answers calls: `node answered_calls.mjs GATEWAY`. Prints the outputs.
import { RejoinChatTransport } from '../../clients/js/rejoin.js';

const [base] = process.argv.slice(2);
const transport = new RejoinChatTransport({ api: `${base}/api/chat` });
const outputs = [];

async function read(stream) {
  const found = {};
  for await (const chunk of stream) {
    if (chunk.type === 'tool-input-available') found[chunk.toolName] = chunk.toolCallId;
    if (chunk.type === 'tool-approval-request') found.approval = chunk.approvalId;
    if (chunk.type === 'tool-output-available') outputs.push(chunk.output);
  }
  return found;
}

async function ask(chatId) {
  const messages = [{ id: `m-${chatId}`, role: 'user', parts: [{ type: 'text', text: 'go' }] }];
  return { messages, ...await read(await transport.sendMessages({ chatId, messages, trigger: 'submit-message' })) };
}

// Without useChat: the client's own tool first, then the approval, with other arguments.
const plain = await ask('plain');
await read(await transport.addToolOutput('plain', plain.locate, { output: { city: 'Oslo' } }));
await read(await transport.approve('plain', plain.approval, { approved: true, reason: 'fine', input: { cents: 8 } }));

// As useChat does: the part in state approval-responded, and the output, in one message.
const { messages, approval, locate } = await ask('chat');
transport.editInput(approval, { cents: 7 });
const parts = [
  { type: 'tool-locate', toolCallId: locate, state: 'output-available', input: {}, output: { city: 'Rome' } },
  { type: 'tool-pay', toolCallId: 'c', state: 'approval-responded', input: { cents: 900 }, approval: { id: approval, approved: true } },
];
const answered = [...messages, { id: 'a', role: 'assistant', parts }];
await read(await transport.sendMessages({ chatId: 'chat', messages: answered, trigger: 'submit-message', messageId: 'a' }));
console.log(JSON.stringify(outputs));
