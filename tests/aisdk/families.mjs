// How a stock chat speaks the other APIs that stream UI chunks: where it posts, what it posts, where it resumes. The
// client itself is the one of its version; only its transport is told the paths and the bodies.

const APPROVE = '/api/chat/approve';
const answered = message => (message.role === 'assistant' ? message.parts.filter(part => part.state === 'approval-responded') : []);
const conversation = ({ id, messages }) => ({ body: { conversationId: id, messages } });

/** The parts API decides one call for each request: all but the last one are posted beside the transport. */
async function parts({ id, messages }, { fetch, base }) {
  const last = messages.at(-1);
  const decisions = answered(last).map(({ approval, toolCallId }) => ({
    runId: approval.id,
    threadId: id,
    toolCallId,
    approved: approval.approved,
    reason: approval.reason,
  }));
  if (!decisions.length) return { body: { threadId: id, messageId: last.id, parts: last.parts } };
  for (const body of decisions.slice(0, -1)) {
    const headers = { 'content-type': 'application/json' };
    await (await fetch(base + APPROVE, { method: 'POST', headers, body: JSON.stringify(body) })).text();
  }
  return { api: base + APPROVE, body: decisions.at(-1) };
}

export const FAMILIES = {
  run: { post: '/run/api/chat', resume: '/run/api/chat/{id}/stream', request: conversation },
  graph: { post: '/api/chat', resume: '/api/chat/{id}/stream', request: conversation },
  parts: { post: '/api/chat', resume: '/api/chat/{id}/stream', request: parts },
  'agent-chat': { post: '/api/agent/chat/stream', resume: '/api/chat/{id}/stream', request: conversation },
  session: {
    post: '/api/agents/{agent}/{id}',
    resume: '/api/agents/{agent}/{id}/reconnect',
    request: ({ messages }) => ({ body: { messages } }),
  },
};

/** The options of the default transport for one of these. `places`: where it posts, and where it resumes. */
export function familyTransport(name, { gateways, agent }, session, query) {
  const { post, resume, request } = FAMILIES[name];
  const [base, other] = gateways;
  const at = path => path.replace('{agent}', agent).replace('{id}', session) + query;
  return {
    api: base + at(post),
    prepareSendMessagesRequest: options => request(options, { fetch, base }),
    prepareReconnectToStreamRequest: () => ({ api: other + at(resume) }),
  };
}
