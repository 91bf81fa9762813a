// OpenAI's own client. `node openai_node.mjs BASE AGENT KEY` goes through its flows and prints what it got.
import OpenAI, { NotFoundError } from 'openai';
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const [base, model, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey, maxRetries: 0 });
const Place = z.object({ city: z.string(), size: z.enum(['large', 'small']) });
const messages = [{ role: 'system', content: 'Be kind.' }, { role: 'user', content: 'Where am I?' }];
const parameters = { type: 'object', properties: { metres: { type: 'number' } } };
const got = {};

got.models = (await client.models.list()).data.map(one => one.id).includes(model);

// Chat completions: whole, streamed, of a form, with tools.
const { data, response } = await client.chat.completions.create({ model, messages, user: 'ann' }).withResponse();
got.chat = data.choices[0].message.content;
got.ignored = response.headers.get('rejoin-ignored');
got.streamed = await client.chat.completions.stream({ model, messages }).finalContent();
const parsed = await client.chat.completions.parse({ model, messages, response_format: zodResponseFormat(Place, 'place') });
got.parsed = parsed.choices[0].message.parsed;
const tools = [{ type: 'function', function: { name: 'locate', description: 'Where?', parameters, parse: JSON.parse, function: () => 'Oslo' } }];
got.tools = await client.chat.completions.runTools({ model, messages, tools }).finalContent();

// Responses: whole, of a form, streamed, in the background, resumed, with tools, cancelled.
const whole = await client.responses.create({ model, input: 'hi', instructions: 'Be kind.', store: true });
got.response = [whole.status, whole.output_text];
const typed = await client.responses.parse({ model, input: 'hi', text: { format: zodTextFormat(Place, 'place') } });
got.typed = typed.output_parsed;
const final = await client.responses.stream({ model, input: 'hi' }).finalResponse();
got.streamedResponse = final.output_text;
const background = await client.responses.create({ model, input: 'hi', background: true });
const events = [];
for await (const event of await client.responses.retrieve(background.id, { stream: true })) events.push(event);
const rest = [];
const resumed = await client.responses.retrieve(background.id, { stream: true, starting_after: events[3].sequence_number });
for await (const event of resumed) rest.push(event);
got.resumed = JSON.stringify(rest) === JSON.stringify(events.slice(4)) && events.at(-1).type === 'response.completed';
const flat = [{ type: 'function', name: 'locate', description: 'Where?', parameters, strict: false }];
const asked = await client.responses.create({ model, input: 'Where am I?', tools: flat });
const [call] = asked.output.filter(item => item.type === 'function_call');
const answer = await client.responses.create({
  model,
  previous_response_id: asked.id,
  input: [{ type: 'function_call_output', call_id: call.call_id, output: 'Oslo' }],
});
got.answered = answer.output_text;
for await (const event of await client.responses.create({ model, input: 'hi', stream: true })) {
  if (event.type === 'response.output_text.delta') got.cancelled = (await client.responses.cancel(got.running)).status;
  if (event.type === 'response.created') got.running = event.response.id;
}
got.missing = await client.embeddings.create({ model, input: 'hi' }).catch(error => [error instanceof NotFoundError, error.code]);
process.stdout.write(`${JSON.stringify(got)}\n`);
