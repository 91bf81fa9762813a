// CopilotKit's core with agents of a gateway, in Node (`node copilotkit.mjs AGENT BASE`) and in a page.
import { CopilotKitCore } from '@copilotkit/core';
import { HttpAgent } from 'ag-ui-client-0';
import { z } from 'zod';

export async function play(agentName, base) {
  const asked = [];
  const locate = {
    name: 'locate',
    description: 'Find out where the user is.',
    parameters: z.object({}),
    handler: async () => { asked.push('locate'); return 'Oslo'; },
  };
  const agent = new HttpAgent({ url: `${base}/ag-ui/${agentName}`, threadId: crypto.randomUUID() });
  const core = new CopilotKitCore({ agents__unsafe_dev_only: { [agentName]: agent }, tools: [locate] });
  core.addContext({ description: 'The page', value: 'A map of Norway' });
  const say = (content) => agent.addMessage({ id: crypto.randomUUID(), role: 'user', content });
  say('context');
  await core.runAgent({ agent });
  say('locate');
  await core.runAgent({ agent });
  say('book');
  await core.runAgent({ agent });
  const resume = agent.pendingInterrupts.map(({ id }) => ({
    interruptId: id, status: 'resolved', payload: { approved: true },
  }));
  await core.runAgent({ agent, resume });
  return { asked, texts: agent.messages.map((one) => `${one.role}: ${one.content ?? ''}`) };
}

globalThis.playCopilotKit = play;
if (globalThis.process?.argv[1]?.endsWith('copilotkit.mjs')) {
  const [agentName, base] = process.argv.slice(2);
  console.log(JSON.stringify(await play(agentName, base)));
  process.exit(0);
}
