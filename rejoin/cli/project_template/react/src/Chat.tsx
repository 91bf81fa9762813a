import { useChat } from '@ai-sdk/react';
import {
  getToolName, isToolUIPart, lastAssistantMessageIsCompleteWithApprovalResponses as answered, type UIMessage,
} from 'ai';
import { useState } from 'react';

export function Chat({ id, initial }: { id: string; initial: UIMessage[] }) {
  const [text, setText] = useState('');
  const { messages, sendMessage, addToolApprovalResponse, status, stop, error } = useChat({
    id, messages: initial, resume: true, sendAutomaticallyWhen: answered,
  });
  const busy = status === 'submitted' || status === 'streaming';
  return <>
    {messages.map((message) => <section key={message.id}>
      <h2>{message.role === 'user' ? 'You' : 'Agent'}</h2>
      {message.parts.map((part, at) => {
        if (part.type === 'text') return <p key={at}>{part.text}</p>;
        if (!isToolUIPart(part)) return null;
        if (part.state !== 'approval-requested') return <p key={at}><code>{getToolName(part)}: {part.state}</code></p>;
        const decide = (approved: boolean) => addToolApprovalResponse({ id: part.approval.id, approved });
        return <p key={at}>{getToolName(part)} {JSON.stringify(part.input)}
          <button onClick={() => decide(true)}>Approve</button>
          <button onClick={() => decide(false)}>Deny</button></p>;
      })}
    </section>)}
    {error && <p role="alert">{error.message}</p>}
    <form onSubmit={(event) => {
      event.preventDefault();
      if (!text.trim()) return;
      void sendMessage({ text });
      setText('');
    }}>
      <label>Message <input value={text} onChange={(event) => setText(event.target.value)} /></label>
      {busy ? <button type="button" onClick={() => void fetch(`/api/chat/${id}/stop`, { method: 'POST' }).then(stop)}>Stop</button>
        : <button>Send</button>}
    </form>
  </>;
}
