// The Agents SDK. `node agents.mjs BASE AGENT KEY` runs an agent of its own whose model is ours, and prints its outputs:
// by responses and by chat completions, each whole and streamed.
import { Agent, OpenAIProvider, Runner, tool } from '@openai/agents';
import { z } from 'zod';

const [base, model, apiKey] = process.argv.slice(2);
const locate = tool({
  name: 'locate',
  description: 'Find out where the user is.',
  parameters: z.object({ metres: z.number() }),
  execute: async () => 'Oslo',
});
const clerk = new Agent({
  name: 'Clerk',
  instructions: 'Be kind.',
  model,
  modelSettings: { temperature: 0.2 },
  tools: [locate],
  outputType: z.object({ city: z.string(), size: z.enum(['large', 'small']) }),
});
const outputs = [];
for (const useResponses of [true, false]) {
  const modelProvider = new OpenAIProvider({ apiKey, baseURL: `${base}/v1`, useResponses });
  const runner = new Runner({ modelProvider, tracingDisabled: true });
  outputs.push((await runner.run(clerk, 'Where am I?')).finalOutput);
  const streamed = await runner.run(clerk, 'Where am I?', { stream: true });
  await streamed.completed;
  outputs.push(streamed.finalOutput);
}
process.stdout.write(`${JSON.stringify(outputs)}\n`);
