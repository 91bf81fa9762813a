// A page of assistant-ui without React: its own transport, with a tool of the page, below the AI SDK's chat.
// `node assistant_ui.mjs BASE AGENT SESSION` prints {sent, message}: the bodies of its requests, and the last message.
import { Chat } from '@ai-sdk/react';
import { AssistantChatTransport } from '@assistant-ui/ai-sdk';
import { lastAssistantMessageIsCompleteWithToolCalls as complete } from 'ai';

const [base, agent, session] = process.argv.slice(2);
const sent = [];
const locate = {
  type: 'frontend',
  description: 'Find out where the user is.',
  parameters: { type: 'object', properties: { accuracy: { type: 'string' } } },
  execute: async () => ({ city: 'Oslo' }),
};
const transport = new AssistantChatTransport({
  api: `${base}/api/chat`,
  headers: { 'x-agent-id': agent },
  fetch(url, init) {
    sent.push(JSON.parse(init.body));
    return fetch(url, init);
  },
});
transport.setRuntime({
  thread: { getModelContext: () => ({ system: 'Be kind.', callSettings: { temperature: 0 }, tools: { locate } }) },
  threads: { mainItem: { initialize: async () => ({ remoteId: session }) } },
});
const chat = new Chat({
  id: session,
  transport,
  sendAutomaticallyWhen: complete,
  onToolCall({ toolCall }) {
    if (toolCall.toolName !== 'locate') return;
    void locate.execute(toolCall.input).then(output => // not awaited: the chat waits for this callback
      chat.addToolOutput({ tool: 'locate', toolCallId: toolCall.toolCallId, output }));
  },
});

/** The chat once it has nothing more to do. */
async function settled() {
  for (let waited = 0; waited < 200; waited += 1) {
    const text = chat.lastMessage?.parts.some(part => part.type === 'text' && part.state === 'done');
    if (chat.error || (chat.status === 'ready' && text)) return;
    await new Promise(resolve => { setTimeout(resolve, 50); });
  }
}

await chat.sendMessage({ text: 'Where am I?' });
await settled();
process.stdout.write(`${JSON.stringify({ sent, message: chat.lastMessage, error: chat.error?.message ?? null })}\n`);
