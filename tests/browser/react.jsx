// An application's page: the real `useChat`, our transport, and nothing done about broken connections.
import { useChat } from '@ai-sdk/react';
import { DefaultChatTransport, lastAssistantMessageIsCompleteWithApprovalResponses as approved } from 'ai';
import { useState } from 'react';
import { createRoot } from 'react-dom/client';

import { RejoinChatTransport } from '../../clients/js/rejoin.js';

const id = location.hash.slice(1);
const stock = location.search === '?stock';
let told = () => {};
const transport = stock ? new DefaultChatTransport() : new RejoinChatTransport({ onState: (state) => told(state) });

function Part({ part, decide }) {
  if (part.type === 'text') return <p className="prose">{part.text}</p>;
  if (!part.toolCallId) return null;
  return (
    <section className="tool" data-state={part.state}>
      {JSON.stringify(part.output ?? part.input)}
      {part.state === 'approval-requested' && [true, false].map((yes) => (
        <button key={yes} onClick={() => decide({ id: part.approval.id, approved: yes })}>{yes ? 'Approve' : 'Deny'}</button>
      ))}
    </section>
  );
}

function Chat({ initial }) {
  const [rejoin, setRejoin] = useState({ state: '' });
  told = setRejoin;
  const { messages, sendMessage, status, error, addToolApprovalResponse } = useChat({
    id, messages: initial, resume: true, transport, sendAutomaticallyWhen: approved,
  });
  const busy = status === 'submitted' || status === 'streaming';
  const onKeyDown = (event) => {
    if (event.key !== 'Enter') return;
    sendMessage({ text: event.target.value });
    event.target.value = '';
  };
  return (
    <>
      {messages.map((message) => (
        <article key={message.id} className={message.role}>
          {message.parts.map((part, at) => <Part key={at} part={part} decide={addToolApprovalResponse} />)}
        </article>
      ))}
      <p id="state">{busy ? rejoin.state : status}</p>
      <p id="fault">{error?.message}</p>
      <input id="field" onKeyDown={onKeyDown} />
      <button id="send" disabled={busy}>Send</button>
      <button onClick={() => transport.interrupt(id)}>Stop</button>
    </>
  );
}

const response = await fetch(`/api/agents/demo/${id}`);
const initial = response.ok ? (await response.json()).messages : [];
createRoot(document.getElementById('root')).render(<Chat initial={initial} />);
