// A message answered again: in a fork of its session, with the history before it. The session itself stays as it is.

import { change } from './console.js';
import { fresh } from './conversation.js';
import { wire } from './wire.js';

/** Send a user's message again in a new fork. Returns the fork's id. */
export async function replay(agent, session, { id, parts }) {
  const { thread } = await change(`/api/threads/${encodeURIComponent(session)}/fork`, { messageId: id });
  const body = { message: { id: fresh(), role: 'user', parts } };
  const response = await wire.post(`/api/agents/${encodeURIComponent(agent)}/${encodeURIComponent(thread.id)}`, body)();
  response.body?.cancel(); // the run goes on; whoever wants to see it opens the session
  if (!response.ok) throw new Error(`The fork ${thread.id} was made, but its message was refused with status ${response.status}.`);
  return thread.id;
}

/** Answer the message of a run again, in a fork. Returns the fork's id. */
export async function replayRun({ agentId, sessionId, messageId }) {
  const history = await wire.json(`/api/agents/${encodeURIComponent(agentId)}/${encodeURIComponent(sessionId)}`);
  const messages = history?.messages ?? [];
  const at = messages.findIndex(({ id }) => id === messageId);
  const asked = messages.slice(0, at < 0 ? undefined : at).findLast(({ role }) => role === 'user');
  if (!asked) throw new Error('The message that this run answers is not in its session any more.');
  return replay(agentId, sessionId, asked);
}

/** Answer the last message of a session again, in its place. The answers of other messages would be lost: those are refused. */
export async function retry({ agentId, sessionId, messageId }) {
  const history = await wire.json(`/api/agents/${encodeURIComponent(agentId)}/${encodeURIComponent(sessionId)}`);
  const messages = history?.messages ?? [];
  const last = messages.at(-1);
  if (!last || (last.id !== messageId && last.role !== 'user')) throw new Error('Messages follow it, which a retry would delete: replay it instead.');
  const body = { id: sessionId, trigger: 'regenerate-message', messages: [last], ...(last.id === messageId && { messageId }) };
  const response = await wire.post('/api/chat', body, { 'x-agent-id': agentId })();
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail ?? `The gateway answered ${response.status}.`);
  response.body?.cancel();
}
