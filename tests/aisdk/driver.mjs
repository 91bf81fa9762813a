// All flows in all versions against a running backend: `node driver.mjs '{"gateways": […], "agent": "…"}' 7.0.173 …`.
//
// First a line {"flows": […]}; then one for each flow in each version: {version, flow, ok, notes, took_ms} or
// {…, error}. And a line {"kill": true} when every version waits for its runner to be killed: any line on stdin says
// that it was.
import { createInterface } from 'node:readline';
import { randomBytes, randomUUID } from 'node:crypto';

import { client } from './client.mjs';
import { FAMILY_FLOWS, FLOWS, play } from './flows.mjs';
import { WORKFLOW_FLOWS } from './workflow_flows.mjs';

const AT_ONCE = 3;
const FLOW_MS_MAX = 45_000;
const KILLED = 'a runner killed in a text';
const [place, ...versions] = [JSON.parse(process.argv[2]), ...process.argv.slice(3)];
const tell = what => process.stdout.write(`${JSON.stringify(what)}\n`);

/** Everybody who calls it waits until all have called it, or have said that they never will. */
function barrier(parties, reached) {
  let resolve;
  const promise = new Promise(done => (resolve = done));
  let missing = parties;
  const arrive = () => --missing === 0 && reached().then(resolve);
  return { arrive, wait: () => (arrive(), promise) };
}

const stdin = createInterface({ input: process.stdin });
const killed = barrier(versions.length, async () => {
  tell({ kill: true });
  await new Promise(resolve => stdin.once('line', resolve));
});

const allElse = barrier(versions.length, async () => {}); // some have few flows: the last one begins for all together

async function perform(one, name, flow) {
  const readable = `${one.name}-${name}-${randomBytes(4).toString('hex')}`.replace(/[^A-Za-z0-9]+/g, '-');
  const session = one.family ? randomUUID() : readable; // one of the families takes no other ids
  const began = Date.now();
  let arrived = name !== KILLED;
  const kill = () => ((arrived = true), killed.wait());
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not over after ${FLOW_MS_MAX} ms`)), FLOW_MS_MAX);
  });
  const result = { version: one.name, flow: name };
  try {
    result.notes = await Promise.race([play(one, place, session, flow, kill), late]);
    result.ok = true;
  } catch (fault) {
    result.ok = false;
    result.error = String(fault.stack ?? fault);
  }
  clearTimeout(timer);
  if (!arrived) killed.arrive();
  tell({ ...result, took_ms: Date.now() - began });
}

async function performAll(version) {
  const one = await client(version);
  const own = { ...FLOWS, ...(one.major === 7 ? WORKFLOW_FLOWS : {}) };
  const flows = Object.entries(own).filter(([name]) => !one.family || FAMILY_FLOWS.includes(name));
  const waiting = flows.filter(([name]) => name !== KILLED);
  const worker = async () => {
    while (waiting.length) await perform(one, ...waiting.shift());
  };
  await Promise.all(Array.from({ length: one.family ? 1 : AT_ONCE }, worker));
  await allElse.wait();
  await perform(one, KILLED, FLOWS[KILLED]);
}

tell({ flows: Object.keys({ ...FLOWS, ...WORKFLOW_FLOWS }), family_flows: FAMILY_FLOWS });
await Promise.all(versions.map(performAll));
stdin.close();
process.exit(0);
