// One installed version of the client, and a tab of a browser that runs it: a Chat of @ai-sdk/react over the
// transport of its own `ai`. The only thing that is ours is the network, so that a test can cut it.
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { familyTransport } from './families.mjs';

const MODULES = path.join(path.dirname(fileURLToPath(import.meta.url)), 'node_modules');
const DEADLINE_MS = 20_000;
const TURNS = 10;
/* An error overtakes what is still in a stream's queues: so long it waits, for what came before it is to be seen. */

function packageOf(file) {
  let folder = path.dirname(file);
  while (!existsSync(path.join(folder, 'package.json'))) folder = path.dirname(folder);
  return folder;
}

function load(folder) {
  const { exports } = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
  let entry = exports['.'];
  while (typeof entry !== 'string') entry = entry.import ?? entry.default;
  return import(pathToFileURL(path.join(folder, entry)).href);
}

/**
 * `ai` of a version and the `@ai-sdk/react` that belongs to it. The name is the version, and behind a `?` what the
 * client states about itself: most of them state nothing. Behind an `@` is the API that it speaks, if not its own.
 */
export async function client(name) {
  const [told, family] = name.split('@');
  const [version, stated] = told.split('?');
  const react = path.join(MODULES, `client-${version}`);
  const folder = packageOf(createRequire(path.join(react, 'package.json')).resolve('ai'));
  const found = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8')).version;
  if (found !== version) throw new Error(`client-${version} came with ai ${found}`);
  const [major, , patch] = version.split('.').map(Number);
  return {
    name,
    version,
    family,
    major,
    patch,
    query: stated ? `?${stated}` : '',
    // `reset-step` came with 7.0.70, not with 7.0.0.
    knowsResets: major === 7 && patch >= 70,
    era: era(major, patch),
    ai: await load(folder),
    react: await load(react),
  };
}

export async function workflowTransport() {
  const { WorkflowChatTransport } = await import(
    pathToFileURL(path.join(MODULES, '@ai-sdk/workflow/dist/client.js')).href
  );
  return WorkflowChatTransport;
}

/**
 * How a client resumes: A on what it holds of the message, B from nothing, C from nothing unless its connection
 * broke, D as C, and `start` resets it.
 */
function era(major, patch) {
  const [b, c, d] = { 5: [233, 268, Infinity], 6: [250, 295, 304], 7: [61, 120, 138] }[major];
  return patch < b ? 'A' : patch < c ? 'B' : patch < d ? 'C' : 'D';
}

export const clone = value => JSON.parse(JSON.stringify(value));

export async function until(condition, what, deadlineMs = DEADLINE_MS) {
  const end = Date.now() + deadlineMs;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise(resolve => setTimeout(resolve, 10));
  }
}

/** The network of one tab: it remembers what was asked and can break a response between two events. */
export class Wire {
  requests = [];
  cutAfter = null;
  /** Whether a reconnection says by `Last-Event-ID` where it is, as an application's own `fetch` may. */
  tellsCursor = false;
  #cursor = null;

  fetch = async (url, init = {}) => {
    const asked = { method: init.method ?? 'GET', url: String(url), events: 0, resets: 0, ended: null };
    this.requests.push(asked);
    const headers = new Headers(init.headers);
    if (this.tellsCursor && this.#cursor && asked.method === 'GET') headers.set('last-event-id', this.#cursor);
    const response = await fetch(url, { ...init, headers });
    asked.status = response.status;
    asked.tail = response.headers.get('x-workflow-stream-tail-index');
    if (!response.body) return response;
    const { status, statusText } = response;
    return new Response(this.#watched(response.body, asked), { status, statusText, headers: response.headers });
  };

  #watched(body, asked) {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let waiting = '';
    let cut = false;
    return new ReadableStream({
      pull: async controller => {
        try {
          if (cut) {
            await reader.cancel();
            for (let turn = 0; turn < TURNS; turn++) await new Promise(setImmediate);
            throw new TypeError('network error');
          }
          const { done, value } = await reader.read();
          if (done) {
            asked.ended = 'end';
            return controller.close();
          }
          const blocks = (waiting + decoder.decode(value, { stream: true })).split('\n\n');
          waiting = blocks.pop();
          for (const block of blocks) {
            if ((cut = this.#cuts(block, asked))) break;
            controller.enqueue(new TextEncoder().encode(`${block}\n\n`));
          }
          if (cut || !blocks.length) controller.enqueue(new Uint8Array());
        } catch (fault) {
          asked.ended = 'broken';
          // What Node calls `terminated`, every browser calls a network error; the client goes by the text.
          controller.error(fault instanceof TypeError ? new TypeError('network error') : fault);
        }
      },
      cancel: reason => {
        asked.ended = 'left';
        return reader.cancel(reason);
      },
    });
  }

  #cuts(block, asked) {
    const id = /^id: (.*)$/m.exec(block);
    if (!id) return false;
    if (this.cutAfter !== null && asked.events >= this.cutAfter) {
      this.cutAfter = null;
      return true;
    }
    asked.events += 1;
    if (block.includes('{"type":"reset-step"')) asked.resets += 1;
    this.#cursor = id[1];
    return false;
  }
}

/** A tab: opened with these messages, gone when nobody looks at it any more. */
export class Tab {
  errors = [];
  wire = new Wire();

  constructor(client, place, session, messages = [], { auto = false, tools = false, transport } = {}) {
    this.client = client;
    const { ai, react, query, family } = client;
    const api = `${place.gateways[0]}/api/chat`;
    const own = {
      api: api + query,
      // Another gateway, because any of them will do.
      prepareReconnectToStreamRequest: ({ id }) => ({
        api: `${place.gateways[1]}/api/chat/${id}/stream${query}`,
      }),
    };
    this.chat = new react.Chat({
      id: session,
      messages: clone(messages),
      transport:
        transport?.(this.wire.fetch, api) ??
        new ai.DefaultChatTransport({
          ...(family ? familyTransport(family, place, session, query) : own),
          fetch: this.wire.fetch,
        }),
      onError: error => this.errors.push(String(error)),
      sendAutomaticallyWhen: state =>
        Boolean(auto && ai.lastAssistantMessageIsCompleteWithApprovalResponses(state)) ||
        (tools && ai.lastAssistantMessageIsCompleteWithToolCalls(state)),
    });
  }

  get last() {
    return this.chat.messages.at(-1);
  }

  get text() {
    return (this.last?.parts ?? []).flatMap(part => (part.type === 'text' ? [part.text] : [])).join('');
  }

  get busy() {
    return ['submitted', 'streaming'].includes(this.chat.status);
  }

  tools(state) {
    return (this.last?.parts ?? []).filter(part => part.toolCallId && (!state || part.state === state));
  }

  say(text, more = {}) {
    return this.chat.sendMessage({ text, ...more });
  }

  async sees(text) {
    await until(() => this.last?.role === 'assistant' && this.text.includes(text), `the text ${JSON.stringify(text)}`);
  }

  async settled() {
    await until(() => !this.busy, `the end of the response in ${this.chat.id}`);
  }

  /** Give the call of a client's tool its output. */
  async output(tool, output) {
    const [{ toolCallId }] = this.tools('input-available').filter(part => part.type === `tool-${tool}`);
    const add = this.chat.addToolOutput ?? this.chat.addToolResult;
    await add.call(this.chat, { tool, toolCallId, output });
  }

  /** Answer every question, in the order of the files; the client posts by itself once all of them are answered. */
  async decide(answers) {
    const requests = this.wire.requests.length;
    const files = Object.keys(answers);
    const asked = this.tools('approval-requested').sort(
      (one, other) => files.indexOf(one.input.file) - files.indexOf(other.input.file),
    );
    for (const { approval, input } of asked) {
      const reason = answers[input.file] ? undefined : 'I need it';
      await this.chat.addToolApprovalResponse({ id: approval.id, approved: answers[input.file], reason });
    }
    await until(() => this.wire.requests[requests]?.status, 'the decisions to be taken');
  }
}
