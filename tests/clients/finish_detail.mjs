// What a client made with `clients/js` holds of an answer that ended early: `node finish_detail.mjs GATEWAY QUESTION`.
import { Answer, RejoinChatTransport } from '../../clients/js/rejoin.js';

const [base, question] = process.argv.slice(2);
const messages = [{ id: 'm1', role: 'user', parts: [{ type: 'text', text: question }] }];
const found = {};

const transport = new RejoinChatTransport({ api: `${base}/api/chat` });
const stream = await transport.sendMessages({ chatId: 'by transport', messages, trigger: 'submit-message' });
for await (const chunk of stream) if (chunk.type === 'finish') found.transport = chunk;

const body = JSON.stringify({ id: 'by answer', messages });
const answer = new Answer({
  open: (signal) => fetch(`${base}/api/chat`, { method: 'POST', headers: { 'content-type': 'application/json' }, body, signal }),
  resume: () => { throw new Error('nothing was cut'); },
});
await answer.begin();
for await (const { chunk } of answer.events()) if (chunk.type === 'finish') found.answer = chunk;
console.log(JSON.stringify(found));
