// One session, its pages and its history: what a flow does with them, and what a version is known not to do.
import { strict as assert } from 'node:assert';

import { Tab, until } from './client.mjs';
import { same } from './compare.mjs';

// Longer than any flow takes: it ends by an interrupt, once the flow has seen what it wants to.
export const LONG = 'count 2000 every 20 ms';
const DOUBLES = 'a resume in the same page doubles the parts; a reload is right';
const THROWS = 'cannot go on in the middle of a part; a reload is right';
const UNKNOWN = 'has no approvals: the question ends the stream with an error; a reload is right';

/** One flow's session in one version. */
export class Scene {
  notes = new Set();

  constructor(client, place, session) {
    Object.assign(this, { client, place, session });
    this.v5 = client.major === 5;
    this.asksInVain = this.v5 && !client.query;
  }

  tab(messages, options) {
    return new Tab(this.client, this.place, this.session, messages, { auto: !this.v5, ...options });
  }

  /** A new page: the messages that the server has, and then the stream, if the run is not over meanwhile. */
  async page() {
    for (;;) {
      const { messages, activeRunId } = await this.#history();
      const tab = this.tab(messages);
      const said = tab.chat.resumeStream();
      await until(() => tab.wire.requests[0]?.status, 'the answer to a reload');
      if (tab.wire.requests[0].status === 200 || !activeRunId) return [tab, said];
    }
  }

  async reload() {
    const [tab, said] = await this.page();
    await said;
    return tab;
  }

  /** A tab in the middle of a long text. */
  async long(text = LONG) {
    const tab = this.tab();
    const said = tab.say(text);
    await tab.sees(' 3');
    return [tab, said];
  }

  /** Interrupt the run once all of these have a text, and wait for what they wait for. */
  async end(tabs, responses) {
    for (const tab of tabs) await tab.sees(' 3');
    assert.equal((await (await this.interrupt()).json()).interrupted, true);
    await Promise.all(responses);
    await this.over();
  }

  async #history() {
    const { gateways, agent } = this.place;
    const response = await fetch(`${gateways[1]}/api/agents/${agent}/${this.session}`);
    assert.equal(response.status, 200);
    return response.json();
  }

  async history() {
    return (await this.#history()).messages;
  }

  /** The stored parts that wait for an approval. */
  async #asking() {
    return (await this.history()).at(-1).parts.filter(part => part.state === 'approval-requested');
  }

  over() {
    return until(async () => !(await this.#history()).activeRunId, 'the end of the run');
  }

  async same(...tabs) {
    const stored = await this.history();
    for (const tab of tabs) {
      same(this.client, tab.chat.messages, stored).forEach(note => this.notes.add(note));
    }
  }

  /** This version resumes on top of what it holds: asserted; and that a reload is right. */
  async doubled(tab) {
    const [held, stored] = [tab.chat.messages.at(-1), (await this.history()).at(-1)];
    assert.equal(held.id, stored.id);
    assert.ok(held.parts.length > stored.parts.length, `${this.client.version} no longer: ${DOUBLES}`);
    this.notes.add(DOUBLES);
    await this.same(await this.reload());
  }

  /** This version forgets which parts were open: asserted; and that a reload is right. */
  async thrown(tab) {
    assert.equal(tab.chat.status, 'error', `${this.client.version} no longer: ${THROWS}`);
    assert.equal(tab.errors.length, 2);
    this.notes.add(THROWS);
    await this.same(await this.reload());
  }

  async post(path, body, query = '') {
    const { gateways, agent } = this.place;
    return fetch(`${gateways[0]}${path.replace('{agent}', agent)}${query}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
  }

  interrupt() {
    return this.post(`/api/chat/${this.session}/stop`, {});
  }

  /** Decisions of a client that has no word for them: the application posts them. Returns the response. */
  async decideBeside(answers) {
    const asking = (await this.#asking()).filter(part => part.input.file in answers);
    const said = asking.map(part => ({
      type: 'approval',
      approval: { approvalId: part.approval.id, approved: answers[part.input.file] },
    }));
    return this.post(`/api/agents/{agent}/${this.session}`, said, this.client.query);
  }

  /** Ask for a deletion, and answer. Returns the tab, and in v5 the response that the application reads. */
  async asked(text, answers) {
    const tab = this.tab();
    await tab.say(text);
    if (this.asksInVain) {
      assert.match(tab.errors[0], /Type validation failed/);
      this.notes.add(UNKNOWN);
      await until(async () => (await this.#asking()).length, 'the stored question'); // the client broke off before
    }
    assert.equal(tab.chat.status, this.asksInVain ? 'error' : 'ready');
    await this.same(tab);
    if (this.v5) return [tab, await this.decideBeside(answers)];
    await tab.decide(answers);
    return [tab, null];
  }

  async decided(text, answers) {
    const [tab, beside] = await this.asked(text, answers);
    if (beside && !this.asksInVain) await tab.chat.resumeStream();
    await beside?.text();
    if (this.asksInVain || tab.wire.requests.at(-1).status === 204) { // on a busy machine the run may be over before
      await this.over();
      const again = await this.reload();
      await this.same(again);
      return again;
    }
    await tab.settled();
    await this.over();
    if (!beside) assert.deepEqual(tab.wire.requests.map(one => one.method), ['POST', 'POST']);
    assert.deepEqual(tab.errors, []);
    await this.same(tab);
    return tab;
  }

  /** A tab whose response broke in the middle, and that has resumed. */
  async cut(tellsCursor) {
    const tab = this.tab();
    tab.wire.tellsCursor = tellsCursor;
    tab.wire.cutAfter = 10;
    await tab.say(LONG);
    assert.equal(tab.chat.status, 'error');
    assert.match(tab.errors[0], /network error/);
    assert.match(tab.text, /^1/);
    const resumed = tab.chat.resumeStream();
    await until(() => tab.wire.requests[1]?.events > 10 || tab.wire.requests[1]?.ended, 'the rest');
    await this.end([], [resumed]);
    assert.deepEqual(tab.wire.requests.map(one => one.status), [200, 200]);
    return tab;
  }
}
