// Pandora's client against a gateway: `node pandora.mjs '{"base": "http://…", "flow": "two"}'`. Prints one JSON line.
//
// The client is a chat of `ai` in the version of Pandora's lock file. Its transport is written here, because the
// package is not published; REQUESTS says what the original sends (packages/react-sdk, create-pandora-transport.ts
// and use-chat.ts). PANDORA_TRANSPORT may name a module with the original `createPandoraTransport`.
import { AbstractChat, DefaultChatTransport, isToolUIPart } from 'ai';

const { base, flow, thread } = JSON.parse(process.argv[2]);
const REQUESTS_MAX = 12; // a client that asks again for ever is stopped here
const DEADLINE_MS = 15_000;

const answered = message =>
  message?.role === 'assistant' ? message.parts.filter(part => isToolUIPart(part) && part.state === 'approval-responded') : [];

/** What is sent after which last message: the first answered question, or else the parts of the user's message. */
const REQUESTS = {
  decision: (part, message, threadId) => ({
    api: `${base}/api/chat/approve`,
    body: {
      runId: part.approval.id,
      toolCallId: part.toolCallId,
      approved: part.approval.approved,
      threadId,
      messageId: message.id,
    },
  }),
  message: (message, threadId) => ({ body: { parts: message?.role === 'user' ? message.parts : [], threadId } }),
};

const requests = [];
const { fetch } = globalThis;

async function countedFetch(url, init) {
  if (requests.length >= REQUESTS_MAX) throw new Error('too many requests');
  const request = { url: String(url).slice(base.length), body: init?.body && JSON.parse(init.body) };
  requests.push(request);
  const response = await fetch(url, init);
  request.status = response.status;
  request.type = response.headers.get('content-type');
  request.thread = response.headers.get('x-thread-id');
  return response;
}

async function transportOf(threadId) {
  if (process.env.PANDORA_TRANSPORT) {
    const { createPandoraTransport } = await import(process.env.PANDORA_TRANSPORT);
    globalThis.fetch = countedFetch;
    return createPandoraTransport({ baseUrl: base, getToken: () => null, threadId });
  }
  return new DefaultChatTransport({
    api: `${base}/api/chat`,
    fetch: countedFetch,
    prepareSendMessagesRequest({ messages }) {
      const last = messages.at(-1);
      const [part] = answered(last);
      return part ? REQUESTS.decision(part, last, threadId) : REQUESTS.message(last, threadId);
    },
  });
}

class State {
  constructor(messages) {
    this.messages = messages;
    this.status = 'ready';
    this.error = undefined;
  }
  pushMessage = message => (this.messages = [...this.messages, message]);
  popMessage = () => (this.messages = this.messages.slice(0, -1));
  replaceMessage = (index, message) => (this.messages = this.messages.with(index, structuredClone(message)));
  snapshot = value => structuredClone(value);
}

class PandoraChat extends AbstractChat {
  constructor(options, messages = []) {
    super({ ...options, state: new State(messages) });
  }
}

async function open(threadId, messages) {
  const options = {
    id: threadId,
    transport: await transportOf(threadId),
    sendAutomaticallyWhen: ({ messages: all }) => answered(all.at(-1)).length > 0,
  };
  return new PandoraChat(options, messages);
}

async function until(condition, what) {
  const end = Date.now() + DEADLINE_MS;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`${what}: not within ${DEADLINE_MS} ms`);
    await new Promise(resolve => setTimeout(resolve, 5));
  }
}

const calls = chat => chat.lastMessage.parts.filter(isToolUIPart);
const call = (chat, tool) => calls(chat).find(part => part.type === `tool-${tool}`);
const answer = (chat, tool, approved) => chat.addToolApprovalResponse({ id: call(chat, tool).approval.id, approved });
const settled = async chat => {
  // It asks again a few turns of the event loop after an answer has ended: quiet means for longer than that.
  let seen = -1;
  await until(async () => {
    const before = seen;
    seen = requests.length;
    if (chat.status === 'submitted' || chat.status === 'streaming') return false;
    await new Promise(resolve => setTimeout(resolve, 60));
    return before === seen && seen === requests.length && chat.status !== 'submitted' && chat.status !== 'streaming';
  }, 'the client is quiet');
};
const states = chat => Object.fromEntries(calls(chat).map(part => [part.type.slice('tool-'.length), part.state]));
const stored = async threadId => (await (await fetch(`${base}/api/threads/${threadId}`)).json()).messages;

async function asked(text) {
  const chat = await open(thread);
  await chat.sendMessage({ text });
  return chat;
}

/** One after the other; what is seen in between. */
async function inTurn(decisions, text = 'two') {
  const chat = await asked(text);
  const seen = [];
  for (const [tool, approved] of decisions) {
    await answer(chat, tool, approved);
    await settled(chat);
    seen.push({ ...states(chat), requests: requests.length });
  }
  return { chat, seen };
}

const FLOWS = {
  approve: () => inTurn([['left', true]], 'one'),
  deny: () => inTurn([['left', false]], 'one'),
  'left, then right': () => inTurn([['left', true], ['right', true]]),
  'right, then left': () => inTurn([['right', true], ['left', true]]),
  'denied, then approved': () => inTurn([['right', false], ['left', true]]),
  'approved, then denied': () => inTurn([['left', true], ['right', false]]),
  async 'both at once'() {
    const chat = await asked('two');
    await Promise.all([answer(chat, 'left', true), answer(chat, 'right', false)]);
    await settled(chat);
    return { chat };
  },
  async 'a reload between'() {
    const { seen } = await inTurn([['left', true]]);
    const chat = await open(thread, await stored(thread));
    await chat.resumeStream();
    seen.push({ ...states(chat), requests: requests.length });
    await answer(chat, 'right', true);
    await settled(chat);
    return { chat, seen };
  },
  async 'interrupted while a tool runs'() {
    const chat = await asked('slow');
    await answer(chat, 'sleep', true);
    await until(async () => (await stored(thread)).length === 1, 'the run goes on');
    await fetch(`${base}/api/chat/${thread}/stop`, { method: 'POST' });
    await settled(chat);
    return { chat };
  },
  async 'a new chat without a thread'() {
    const chat = await open(undefined);
    await chat.sendMessage({ text: 'one' });
    return { chat };
  },
};

const { chat, seen } = await FLOWS[flow]();
const texts = chat.lastMessage.parts.filter(part => part.type === 'text').map(part => part.text);
const error = chat.error && String(chat.error.message);
process.stdout.write(`${JSON.stringify({ requests, seen, states: states(chat), texts, status: chat.status, error })}\n`);
