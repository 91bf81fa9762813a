// Folds the events of a run into a message: the part of the AI SDK's client that these pages need.

const named = ({ providerMetadata }) => (providerMetadata === undefined ? {} : { callProviderMetadata: providerMetadata });
const TOOL = {
  'tool-input-start': (chunk) => ({ state: 'input-streaming', rawInput: '', ...named(chunk) }),
  'tool-input-delta': ({ inputTextDelta }, { rawInput }) => ({ rawInput: rawInput + inputTextDelta }),
  'tool-input-available': (chunk) => ({ state: 'input-available', input: chunk.input, ...named(chunk) }),
  'tool-input-error': ({ input, errorText }) => ({ state: 'output-error', input, errorText }),
  'tool-approval-request': ({ approvalId: id }) => ({ state: 'approval-requested', approval: { id } }),
  'tool-approval-response': ({ approvalId: id, approved, reason }) => ({ state: 'approval-responded', approval: { id, approved, reason } }),
  'tool-output-available': ({ output }) => ({ state: 'output-available', output }),
  'tool-output-error': ({ errorText }) => ({ state: 'output-error', errorText }),
  'tool-output-denied': () => ({ state: 'output-denied' }),
};
const PARTS = ['file', 'reasoning-file', 'source-url', 'source-document', 'steering-message'];
const ENDS_STATUS = ['text-start', 'reasoning-start', 'reset-step', 'finish-step', 'finish', 'abort', 'error'];

export class Fold {
  #unfinished = new Map();

  constructor(message = { id: '', role: 'assistant', parts: [] }) {
    this.message = message;
  }

  /** Apply the next event. */
  add(chunk) {
    const { parts } = this.message;
    const { type } = chunk;
    if (ENDS_STATUS.includes(type)) this.message.status = undefined;
    const [, kind, what] = /^(text|reasoning)-(start|delta|end)$/.exec(type) ?? [];
    if (what) this.#speak(kind, what, chunk);
    else if (TOOL[type]) this.#call(chunk);
    else if (type === 'start') this.message.id = chunk.messageId ?? this.message.id;
    else if (type === 'start-step') parts.push({ type: 'step-start' });
    else if (type === 'reset-step') parts.splice(this.#step());
    else if (type === 'abort') parts.push({ type: 'note', text: 'Interrupted.' });
    else if (type === 'error') parts.push({ type: 'error', text: chunk.errorText });
    else if (PARTS.includes(type)) parts.push(chunk);
    else if (type === 'message-metadata' || type === 'finish') Object.assign((this.message.metadata ??= {}), chunk.messageMetadata);
    else if (type === 'data-status') this.message.status = chunk.data?.status;
    else if (type.startsWith('data-') && type !== 'data-operation') this.#data(chunk);
  }

  /** Index of the first part of the current step. */
  #step() {
    return this.message.parts.findLastIndex((part) => part.type === 'step-start') + 1;
  }

  #speak(kind, what, chunk) {
    const key = `${kind} ${chunk.id}`;
    if (what === 'start') {
      const part = { type: kind, text: '', state: 'streaming', providerMetadata: chunk.providerMetadata };
      this.#unfinished.set(key, part);
      this.message.parts.push(part);
      return;
    }
    const part = this.#unfinished.get(key);
    if (what === 'delta') part.text += chunk.delta;
    else Object.assign(part, { state: 'done', citations: chunk.citations });
  }

  #call(chunk) {
    const { parts } = this.message;
    const { toolCallId, toolName, approvalId } = chunk;
    const mine = (part) => (toolCallId ? part.toolCallId === toolCallId : part.approval?.id === approvalId);
    let part = parts.slice(this.#step()).find(mine) ?? (toolName ? null : parts.findLast(mine));
    if (!part) parts.push((part = { type: `tool-${toolName}`, toolCallId }));
    Object.assign(part, TOOL[chunk.type](chunk, part));
  }

  #data(chunk) {
    const { parts } = this.message;
    const at = chunk.id ? parts.findIndex((part) => part.type === chunk.type && part.id === chunk.id) : -1;
    parts[at < 0 ? parts.length : at] = chunk;
  }
}

/** The error text of a part, if it is an error; stored messages hold errors as data parts. */
export const failure = ({ type, text, data }) => (type === 'error' ? text : data?.type === 'error' ? data.message : '');
