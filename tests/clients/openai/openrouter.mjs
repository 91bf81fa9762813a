// The AI SDK with OpenRouter's provider. `node openrouter.mjs BASE AGENT KEY` prints a text, a stream, a text behind a
// call of a tool, and an object.
import { createOpenRouter } from '@openrouter/ai-sdk-provider';
import { generateText, isStepCount, Output, streamText, tool } from 'ai';
import { z } from 'zod';

const [base, name, apiKey] = process.argv.slice(2);
const model = createOpenRouter({ baseURL: `${base}/v1`, apiKey }).chat(name);
const asked = { model, instructions: 'Be kind.', prompt: 'Where am I?', temperature: 0.2, maxRetries: 0 };
const locate = tool({
  description: 'Find out where the user is.',
  inputSchema: z.object({ metres: z.number() }),
  execute: async () => 'Oslo',
});
const schema = z.object({ city: z.string(), size: z.enum(['large', 'small']) });
const got = {};
got.text = (await generateText(asked)).text;
got.streamed = await streamText(asked).text;
got.tools = (await generateText({ ...asked, tools: { locate }, stopWhen: isStepCount(3) })).text;
got.object = (await generateText({ ...asked, output: Output.object({ schema }) })).output;
process.stdout.write(`${JSON.stringify(got)}\n`);
