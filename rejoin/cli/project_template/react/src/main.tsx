import type { UIMessage } from 'ai';
import { createRoot } from 'react-dom/client';

import { Chat } from './Chat';

// The session's id is in the address, so a reload and another tab show the same conversation.
const session = location.hash.slice(1) || crypto.randomUUID();
location.hash = session;

const stored = await fetch(`/api/agents/my-agent/${session}`);
const initial: UIMessage[] = stored.ok ? (await stored.json()).messages : [];
createRoot(document.getElementById('root')!).render(<Chat id={session} initial={initial} />);
