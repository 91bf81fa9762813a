// What the clients do with the wire: `node flows.mjs CLIENT AGENT BASE...`. Prints a JSON object by flow.
import { resumingFetch } from './resuming_fetch.mjs';

const [client, agentName, ...bases] = process.argv.slice(2);
const { HttpAgent } = await import(client);
const LOCATE = { name: 'locate', description: 'Find the user.', parameters: { type: 'object', properties: {} } };
let threads = 0;

function newAgent(fields = {}) {
  const threadId = `${agentName}-${threads++}`;
  return new HttpAgent({ url: `${bases[0]}/ag-ui/${agentName}`, threadId, ...fields });
}

function say(agent, content) {
  agent.addMessage({ id: crypto.randomUUID(), role: 'user', content });
}

async function run(agent, parameters = {}) {
  const seen = { types: [], outcome: null, error: null };
  await agent.runAgent(parameters, {
    onEvent: ({ event }) => void seen.types.push(event.type),
    onRunFinishedEvent: ({ event }) => void (seen.outcome = event.outcome),
    onRunErrorEvent: ({ event }) => void (seen.error = event.message),
  });
  return seen;
}

const texts = (agent) => agent.messages.map((one) => `${one.role}: ${one.content ?? ''}`);
const calls = (agent) => agent.messages.flatMap((one) => one.toolCalls ?? []);

function answer(agent, outcome, payload) {
  return { resume: outcome.interrupts.map(({ id }) => ({ interruptId: id, status: 'resolved', payload })) };
}

// A fetch whose every response breaks off after some bytes, and whose next request goes to another gateway.
function cuttingFetch() {
  let requests = 0;
  return async (url, init) => {
    const base = bases[requests++ % bases.length];
    const response = await fetch(url.replace(bases[0], base), init);
    if (!response.ok) return response;
    let left = 150 + 137 * requests;
    const cut = new TransformStream({
      transform(bytes, controller) {
        if (bytes.length > left) {
          controller.enqueue(bytes.slice(0, left));
          controller.error(new Error('cut'));
        } else controller.enqueue(bytes);
        left -= bytes.length;
      },
    });
    return new Response(response.body.pipeThrough(cut), { status: 200, headers: response.headers });
  };
}

const flows = {
  async send() {
    const agent = newAgent();
    say(agent, 'hello');
    const seen = await run(agent);
    say(agent, 'hello');
    await run(agent);
    return { texts: texts(agent), types: seen.types, outcome: seen.outcome };
  },
  async tools() {
    const agent = newAgent();
    say(agent, 'weather');
    await run(agent);
    return { texts: texts(agent), arguments: calls(agent).map((call) => JSON.parse(call.function.arguments)) };
  },
  async frontend() {
    const agent = newAgent();
    say(agent, 'locate');
    const first = await run(agent, { tools: [LOCATE] });
    const [call] = calls(agent);
    agent.addMessage({ id: 'place', role: 'tool', toolCallId: call.id, content: 'Oslo' });
    await run(agent, { tools: [LOCATE] });
    return { pending: first.outcome?.pendingToolCallIds?.[0] === call.id, texts: texts(agent) };
  },
  async approve() {
    const agent = newAgent();
    say(agent, 'book');
    const asked = await run(agent);
    await run(agent, answer(agent, asked.outcome, { approved: true, editedArgs: { city: 'Rome' } }));
    return { texts: texts(agent), left: agent.pendingInterrupts?.length ?? 0 };
  },
  async deny() {
    const agent = newAgent();
    say(agent, 'book');
    const asked = await run(agent);
    await run(agent, answer(agent, asked.outcome, { approved: false, reason: 'too far' }));
    return { texts: texts(agent) };
  },
  async cut() {
    const agent = newAgent({});
    const request = resumingFetch(cuttingFetch(), Array(100).fill(0));
    agent.fetch = request;
    say(agent, 'count 100 every 5 ms');
    const seen = await run(agent);
    return { texts: texts(agent), counted: seen.types.filter((type) => type === 'RUN_STARTED').length };
  },
  async reload() {
    if (client !== '@ag-ui/client') return null;
    const { RejoinAgent } = await import('./rejoin_agent.mjs');
    const agent = newAgent();
    say(agent, 'book');
    await run(agent);
    const page = new RejoinAgent({ url: agent.url.replace(bases[0], bases[1]), threadId: agent.threadId });
    await page.connectAgent();
    const ids = (one) => JSON.stringify(one.messages.map(({ id }) => id));
    const same = ids(page) === ids(agent);
    await run(page, answer(page, { interrupts: page.pendingInterrupts }, true));
    await page.connectAgent();
    return { same, texts: texts(page) };
  },
  async again() {
    const agent = newAgent();
    say(agent, 'hello');
    await run(agent, { runId: 'r-1' });
    await run(agent, { runId: 'r-1' });
    return { texts: texts(agent) };
  },
  async fail() {
    const agent = newAgent();
    say(agent, 'fail');
    const seen = await run(agent);
    return { error: seen.error, last: seen.types.at(-1) };
  },
  async refuse() {
    const agent = newAgent();
    const nowhere = new HttpAgent({ url: `${bases[0]}/ag-ui/nobody` });
    say(nowhere, 'hello');
    return { error: await nowhere.runAgent().then(() => null, (error) => String(error.message)) };
  },
};

const wanted = process.env.FLOWS ? process.env.FLOWS.split(',') : Object.keys(flows);
const report = {};
const { error, warn } = console;
console.error = () => {};
console.warn = (...said) => { report.warnings = [...(report.warnings ?? []), said.join(' ')]; };
for (const name of wanted) {
  report[name] = await flows[name]().catch((fault) => ({ threw: String(fault.stack) }));
}
Object.assign(console, { error, warn });
console.log(JSON.stringify(report));
