// A chat server as the AI SDK's documentation describes it: one process, messages in memory, streams that can be
// resumed through Redis.
//
// node ai_sdk_server.mjs PORT PROVIDER_URL REDIS_URL
import { createServer } from "node:http";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { convertToModelMessages, generateId, streamText, UI_MESSAGE_STREAM_HEADERS } from "ai";
import { createClient } from "redis";
import { createResumableStreamContext } from "resumable-stream";

const [port, providerUrl, redisUrl] = process.argv.slice(2);
const model = createOpenAICompatible({ name: "bench", baseURL: providerUrl })("gpt-bench");
const publisher = createClient({ url: redisUrl });
const subscriber = createClient({ url: redisUrl });
await Promise.all([publisher.connect(), subscriber.connect()]);
const streams = createResumableStreamContext({ waitUntil: null, publisher, subscriber });
const chats = new Map(); // id: its messages, and the id of the stream that is being written

async function readJson(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks));
}

async function send(request, response) {
  const { id, messages } = await readJson(request);
  const chat = { messages, activeStreamId: null };
  chats.set(id, chat);
  const result = streamText({ model, messages: await convertToModelMessages(messages) });
  await result.pipeUIMessageStreamToResponse(response, {
    originalMessages: messages,
    generateMessageId: generateId,
    onFinish: (answer) => Object.assign(chat, { messages: answer.messages, activeStreamId: null }),
    consumeSseStream: async ({ stream }) => {
      const streamId = generateId();
      await streams.createNewResumableStream(streamId, () => stream);
      chat.activeStreamId = streamId;
    },
  });
}

async function resume(id, response) {
  const streamId = chats.get(id)?.activeStreamId;
  const stream = streamId && (await streams.resumeExistingStream(streamId));
  if (!stream) {
    response.writeHead(204).end();
    return;
  }
  response.writeHead(200, UI_MESSAGE_STREAM_HEADERS);
  for await (const text of stream) {
    if (response.destroyed) break; // its client has left: the stream is cancelled
    if (!response.write(text)) await drained(response);
  }
  response.end();
}

const drained = (response) =>
  new Promise((resolve) => {
    response.once("drain", resolve);
    response.once("close", resolve);
  });

createServer((request, response) => {
  const [, id] = request.url.match(/^\/api\/chat\/([^/]+)\/stream$/) ?? [];
  const answered =
    request.method === "POST" ? send(request, response) : id ? resume(id, response) : response.writeHead(200).end();
  Promise.resolve(answered).catch((error) => response.destroy(error));
}).listen(Number(port), "127.0.0.1");
