import type { ChatTransport, UIMessage, UIMessageChunk } from 'ai';

type Resolvable<T> = T | (() => T | Promise<T>);

/** How an answer stands: for an application that wants to show it. */
export interface RejoinState {
  state: 'waiting' | 'streaming' | 'reconnecting';
  /** The run that makes the answer; empty until the server has said so. */
  run: string;
  /** The last event that arrived; opaque. */
  cursor: string;
  /** How often the connection was lost. */
  breaks: number;
}

/** The metadata of an answer: `useChat<UIMessage<RejoinMetadata>>`. */
export interface RejoinMetadata {
  /** Why the answer ended early, in a sentence for people. */
  finishDetail?: string;
  /** The tokens of all its model calls. `estimated`: a provider did not report all of them. */
  usage?: {
    inputTokens: number; outputTokens: number; totalTokens: number;
    cachedInputTokens?: number; reasoningTokens?: number; estimated?: true;
    /** US dollars, of the models that have a price. */
    costUsd?: number;
    models?: Record<string, { inputTokens: number; outputTokens: number; costUsd?: number }>;
  };
}

export interface RejoinChatTransportOptions {
  /** Where the chat is; a query is kept. Default `/api/chat`. */
  api?: string;
  headers?: Resolvable<HeadersInit>;
  body?: Resolvable<object>;
  credentials?: RequestCredentials;
  fetch?: typeof globalThis.fetch;
  /** The major version of your `ai`. Needed before 7.0.70 only: 6 or 5. */
  ui?: 5 | 6 | 7;
  /** How long the transport repeats a request without any response, in ms. Default: ten minutes. */
  retryForMs?: number;
  /** How long a connection may deliver no byte, in ms. Default: 30 s. A gateway sends something every 10 s. */
  readTimeoutMs?: number;
  onState?: (state: RejoinState) => void;
}

/** `useChat({ transport: new RejoinChatTransport(), resume: true })` */
export declare class RejoinChatTransport<M extends UIMessage = UIMessage> implements ChatTransport<M> {
  constructor(options?: RejoinChatTransportOptions);
  readonly resumeStreamIsReplay: true;
  sendMessages: ChatTransport<M>['sendMessages'];
  reconnectToStream: ChatTransport<M>['reconnectToStream'];
  /** Send a message to the run that works: its model reads it at its next step, and the stream that `useChat` reads has
   * it as `steering-message`. If the run ends before, the message is the next turn: `resumeStream()` reads its answer,
   * as it does if no run was at work (`steering: false`). */
  steer(chatId: string, message: string | (Pick<M, 'parts'> & { id?: string }), options?: {
    headers?: HeadersInit;
    body?: object;
  }): Promise<{ steering: boolean; messageId: string }>;
  /** Stop the run. `stop()` of `useChat` only stops listening. */
  interrupt(chatId: string, options?: {
    headers?: HeadersInit;
    /** Stop the run that answers this message, also if the server has not received it yet. While `sendMessages` waits
     * for its response, this is the message that it sends. Else the active run, and all that wait for approvals. */
    messageId?: string;
    /** The last part that the user has seen, with as much of its text. What is behind it is cut from the history. */
    lastPart?: M['parts'][number];
  }): Promise<{ success: boolean; interrupted: boolean }>;
  /** The arguments with which an approved call runs, if its tool allows that they are changed: say them before
   * `addToolApprovalResponse({ id, approved: true })`. */
  editInput(approvalId: string, input: object): void;
  /** Decide an approval without `useChat`. The chunks that follow; none while the run waits for more. */
  approve(chatId: string, approvalId: string, decision: {
    approved: boolean;
    reason?: string;
    /** All of the arguments, changed. */
    input?: object;
    headers?: HeadersInit;
    abortSignal?: AbortSignal;
  }): Promise<ReadableStream<UIMessageChunk>>;
  /** Answer the call of a client tool without `useChat`: `output`, or `errorText` in its place. As `approve`. */
  addToolOutput(chatId: string, toolCallId: string, given: {
    output?: unknown;
    errorText?: string;
    headers?: HeadersInit;
    abortSignal?: AbortSignal;
  }): Promise<ReadableStream<UIMessageChunk>>;
}

/** The server understood, and said no. */
export declare class Refused extends Error {
  readonly status: number;
  /** JSON pointer to what is wrong with the request, or empty. */
  readonly pointer: string;
}

export type RejoinEvent =
  | { cursor: string; chunk: UIMessageChunk; restart?: undefined }
  | { restart: true; cursor?: undefined; chunk?: undefined };

/** One answer through any number of broken connections, for a client that is not `useChat`. */
export declare class Answer {
  readonly run: string;
  readonly cursor: string;
  readonly breaks: number;
  constructor(options: {
    /** Makes the request; may be made again, so it must name what makes it one (a message id, a key). */
    open: (signal: AbortSignal) => Promise<Response>;
    /** Asks for what is behind a cursor, by `Last-Event-ID`. */
    resume: (place: { run: string; cursor: string }, signal: AbortSignal) => Promise<Response>;
    signal?: AbortSignal;
    retryForMs?: number;
    readTimeoutMs?: number;
    onState?: (state: RejoinState) => void;
  });
  /** False if there is nothing to read. Throws `Refused`. */
  begin(): Promise<boolean>;
  /** Instead of `begin` and `events`: the whole of an answer that is no stream. */
  json(): Promise<unknown>;
  /** Every event once, in order; after `restart` all of them come again. */
  events(): AsyncGenerator<RejoinEvent, void, void>;
  /** Stop reading. The run goes on. */
  leave(): void;
}
