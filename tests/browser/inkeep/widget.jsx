// A page with the chat widget `@inkeep/agents-ui`, embedded as its documentation says and nothing else.
import { InkeepEmbeddedChat } from '@inkeep/agents-ui';
import { createRoot } from 'react-dom/client';

const query = new URLSearchParams(location.search);
const token = query.get('token');

const baseSettings = {
  primaryBrandColor: '#3355ff',
  shouldBypassCaptcha: true,
  ...(token && { getAuthToken: async () => token }),
};
const aiChatSettings = {
  baseUrl: location.origin,
  appId: 'app',
  ...(query.get('agent') && { headers: { 'x-agent-id': query.get('agent') } }),
  ...(query.get('conversation') && { conversationId: query.get('conversation') }),
};

createRoot(document.getElementById('root')).render(
  <InkeepEmbeddedChat baseSettings={baseSettings} aiChatSettings={aiChatSettings} />,
);
