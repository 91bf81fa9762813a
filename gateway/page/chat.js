// The chat page. It keeps no truth of its own: the session's id is in the address, the conversation is with the
// server, and a running answer is rebuilt from its stream or, after a break, continued behind the last event.

const WAIT_FIRST_MS = 250, WAIT_MAX_MS = 5_000;
const WAIT_CUT_MS = 1_200; // after the button: long enough to be seen
const SILENCE_MAX_MS = 30_000; // a gateway says something every ten seconds: this connection is dead
const AWAY = [429, 502, 503, 504];
const IDEAS = ["count 20 every 200 ms", "weather Paris", "delete notes.txt", "think", "sleep 5", "fail"];

const $ = (id) => document.getElementById(id);
// There is no randomUUID on a plain http origin other than localhost.
const fresh = () => crypto.randomUUID?.() ?? crypto.getRandomValues(new Uint32Array(4)).join("-");
const agent = new URLSearchParams(location.search).get("agent") || "demo";
const named = /^#([A-Za-z0-9_-]{1,128})$/.exec(location.hash)?.[1];
const session = named ?? fresh();

let messages = [];
let busy = false; // one thing at a time: loading, or an answer
let connection = new AbortController();
let wait = WAIT_FIRST_MS;
const live = { state: "", cursor: "", run: "", breaks: 0 };

// ---- the connection

/** A response, or null if nobody answers. */
function ask(path, headers = {}, body = undefined) {
  connection = new AbortController();
  const options = { method: body ? "POST" : "GET", body, cache: "no-store", signal: connection.signal };
  return fetch(path, { ...options, headers: { "x-agent-id": agent, ...headers } }).catch(() => null);
}

function post(news) {
  const body = { id: session, trigger: "submit-message", ...news };
  return ask("/api/chat", { "content-type": "application/json" }, JSON.stringify(body));
}

const resume = (cursor) => ask(`/api/chat/${session}/stream`, cursor ? { "Last-Event-ID": cursor } : {});

/** The first answer of a gateway that is there, however long that takes. */
async function reach(open) {
  for (;;) {
    const response = await open();
    if (response && !AWAY.includes(response.status)) return response;
    await pause();
  }
}

/** Before the next try: longer each time, and over at once when the network is back. */
function pause() {
  show({ state: "reconnecting" });
  return new Promise((resolve) => {
    const over = () => (clearTimeout(timer), removeEventListener("online", over), resolve());
    const timer = setTimeout(over, wait);
    addEventListener("online", over);
    wait = Math.min(wait * 2, WAIT_MAX_MS);
  });
}

/** The events of a body. A broken body ends like any other: only `[DONE]` says that the answer is whole. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", id = "", data = [];
  for (;;) {
    const silence = setTimeout(() => connection.abort(), SILENCE_MAX_MS);
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    clearTimeout(silence);
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop(); // a read may end anywhere
    for (const line of lines) {
      const [, field, text] = /^([^:]*)(?:: ?(.*))?$/s.exec(line.replace(/\r$/, ""));
      if (field === "id") id = text;
      else if (field === "data") data.push(text);
      else if (!field && text === undefined && data.length) yield { id, data: data.splice(0).join("\n") };
    }
  }
}

/** Fold a stream into an answer until `[DONE]`, through any number of breaks. False: nothing is running. */
async function follow(open, answer = { role: "assistant", parts: [] }) {
  const unfinished = {};
  const before = { ...live };
  let cursor = "", run = "", breaks = 0;
  show({ state: "waiting", cursor, breaks });
  for (;;) {
    const response = await reach(() => (cursor ? resume(cursor) : open()));
    const theirs = response.headers.get("x-workflow-run-id");
    if (cursor && (response.status !== 200 || theirs !== run)) {
      connection.abort(); // the place is gone: start over without it
      await load();
      return true;
    }
    if (response.status === 204) {
      show(before);
      return false;
    }
    await accepted(response);
    if (response.headers.get("content-type")?.startsWith("application/json")) return true; // other decisions are open
    show({ state: "streaming", run: (run = theirs), breaks });
    for await (const event of events(response.body)) {
      if (event.data === "[DONE]") return true;
      wait = WAIT_FIRST_MS;
      fold(answer, unfinished, JSON.parse(event.data));
      show({ cursor: (cursor = event.id) });
    }
    breaks += 1;
    await pause();
  }
}

async function accepted(response) {
  if (response.ok) return;
  const problem = await response.json().catch(() => ({}));
  throw new Error(problem.detail ?? `The server answered ${response.status}.`);
}

// ---- what one does

async function act(work) {
  if (busy) return;
  busy = true;
  $("notice").textContent = "";
  await work().catch((fault) => ($("notice").textContent = fault.message));
  busy = false;
  const asked = messages.at(-1)?.parts.some((part) => part.state === "approval-requested");
  show({ state: live.cursor && (asked ? "suspended" : "finished") });
}

/** The stored conversation, and whatever runs, to its end. */
async function load() {
  for (;;) {
    const response = await reach(() => ask(`/api/agents/${encodeURIComponent(agent)}/${session}`));
    if (response.status !== 404) await accepted(response);
    const stored = response.ok ? await response.json() : { messages: [] };
    messages = stored.messages;
    if (await follow(() => resume())) continue;
    if (!stored.activeRunId) return;
    await pause(); // a run that ended between the two requests is in neither answer
  }
}

async function send(text) {
  const message = { id: fresh(), role: "user", parts: [{ type: "text", text }] };
  history.replaceState(null, "", `#${session}`);
  messages.push(message);
  try {
    await follow(() => post({ messages: [message] })); // sent again, the same message is the same run
  } catch (fault) {
    messages = messages.filter((one) => one !== message);
    $("field").value ||= text;
    throw fault;
  }
}

async function decide(message, part, approved) {
  Object.assign(part, { state: "approval-responded", approval: { id: part.approval.id, approved } });
  const body = { messages: [structuredClone(message)], messageId: message.id };
  try {
    await follow(() => post(body), message);
  } catch (fault) {
    await load(); // somebody else has decided
    throw fault;
  }
}

// ---- the fold: a part of what the AI SDK's client does with the same events

const TOOL = {
  "tool-input-start": () => ({ state: "input-streaming", rawInput: "" }),
  "tool-input-delta": ({ inputTextDelta }, { rawInput }) => ({ rawInput: rawInput + inputTextDelta }),
  "tool-input-available": ({ input }) => ({ state: "input-available", input }),
  "tool-input-error": ({ input, errorText }) => ({ state: "output-error", input, errorText }),
  "tool-approval-request": ({ approvalId: id }) => ({ state: "approval-requested", approval: { id } }),
  "tool-approval-response": ({ approvalId: id, approved }) => ({ state: "approval-responded", approval: { id, approved } }),
  "tool-output-available": ({ output }) => ({ state: "output-available", output }),
  "tool-output-error": ({ errorText }) => ({ state: "output-error", errorText }),
  "tool-output-denied": () => ({ state: "output-denied" }),
};

function fold(answer, unfinished, event) {
  const { parts } = answer;
  const { type } = event;
  const step = parts.findLastIndex((part) => part.type === "step-start") + 1;
  const [, kind, what] = /^(text|reasoning)-(start|delta|end)$/.exec(type) ?? [];
  const key = `${kind} ${event.id}`;
  if (what === "start") parts.push((unfinished[key] = { type: kind, text: "", state: "streaming" }));
  else if (what === "delta") unfinished[key].text += event.delta;
  else if (what === "end") unfinished[key].state = "done";
  else if (TOOL[type]) {
    const { toolCallId, toolName, approvalId } = event;
    const mine = (part) => (toolCallId ? part.toolCallId === toolCallId : part.approval?.id === approvalId);
    let part = parts.slice(step).find(mine) ?? (toolName ? null : parts.findLast(mine));
    if (!part) parts.push((part = { type: `tool-${toolName}`, toolCallId }));
    Object.assign(part, TOOL[type](event, part));
  } else if (type === "start") {
    answer.id = event.messageId ?? answer.id ?? fresh();
    const at = messages.findIndex((one) => one.id === answer.id);
    messages[at < 0 ? messages.length : at] = answer;
  } else if (type === "start-step") parts.push({ type: "step-start" });
  else if (type === "reset-step") parts.splice(step);
  else if (type === "abort") parts.push({ type: "error", text: "Interrupted." });
  else if (type === "error") parts.some(failure) || parts.push({ type: "error", text: event.errorText });
  else if (type.startsWith("data-") && !event.transient) parts.push(event);
}

/** What went wrong, if that is what a part says; history has it as data alone. */
const failure = ({ type, text, data }) => (type === "error" ? text : data?.type === "error" ? data.message : "");

// ---- the view

const STATES = {
  "input-streaming": "preparing", "input-available": "running", "approval-requested": "waits for you",
  "output-available": "done", "output-error": "failed", "output-denied": "denied",
};
const nodes = new Map();
let painting = 0;

function show(news) {
  Object.assign(live, news);
  painting ||= requestAnimationFrame(paint);
}

function paint() {
  painting = 0;
  const { state, cursor, run, breaks } = live;
  const scroll = $("scroll");
  const low = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
  arrange($("log"), messages.map(article));
  $("intro").hidden = messages.length > 0 || busy;
  $("line").hidden = !state || !messages.length;
  $("line").dataset.state = state;
  $("cut").hidden = $("stop").hidden = state !== "streaming";
  write($("state"), state + (state.endsWith("ing") ? "…" : ""));
  const rejoined = breaks ? ` · rejoined ${breaks}×` : "";
  write($("cursor"), cursor && `cursor ${cursor}${rejoined}`);
  write($("facts"), [location.host, run].filter(Boolean).join(" · "));
  for (const button of [$("send"), ...$("chips").children]) button.disabled = busy;
  if (low) scroll.scrollTop = scroll.scrollHeight;
}

function h(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const node = (key, make) => nodes.get(key) ?? nodes.set(key, make()).get(key);

/** Give `parent` these children in this order; those that stay keep their focus, selection and openness. */
function arrange(parent, children) {
  children.forEach((child, at) => child === parent.children[at] || parent.insertBefore(child, parent.children[at]));
  while (parent.children.length > children.length) parent.lastElementChild.remove();
}

function write(element, text) {
  const old = element.textContent;
  if (old && text.startsWith(old)) element.firstChild.appendData(text.slice(old.length));
  else if (text !== old) element.textContent = text;
}

function article(message, index) {
  const made = node(message.id, () => h("article", { className: message.role, ariaLabel: message.role }));
  made.ariaBusy = String(busy && index === messages.length - 1); // read out when it is whole
  arrange(made, message.parts.flatMap((part, at) => view(message, part, `${message.id} ${at} ${part.type}`)));
  return made;
}

function view(message, part, key) {
  const fault = failure(part);
  if (part.toolCallId) return tool(message, part, key);
  if (part.type === "reasoning") {
    const made = node(key, () => h("details", { open: part.state === "streaming" }, h("summary"), h("p")));
    write(made.firstChild, part.state === "streaming" ? "Thinking…" : "Thoughts");
    write(made.lastChild, part.text);
    return made;
  }
  if (!fault && part.type !== "text") return [];
  const made = node(key, () => h("p", { className: fault ? "fault" : "" }));
  write(made, fault || part.text);
  return made;
}

function tool(message, part, key) {
  const made = node(key, () => h("section", { className: "tool", tabIndex: -1, ariaLabel: "Tool call" },
    h("div", {}, h("code"), h("span", { className: "badge" })), h("pre", { ariaLabel: "input" }), h("pre", { ariaLabel: "output" }),
    h("div", { className: "ask" }, h("span", { textContent: "Allow it?" }),
      h("button", { textContent: "Deny" }), h("button", { className: "strong", textContent: "Approve" }))));
  const [head, input, output, question] = made.children;
  const json = (value) => (typeof value === "string" ? value : JSON.stringify(value) ?? "");
  made.dataset.state = part.state;
  write(head.firstChild, part.toolName ?? part.type.slice(5));
  write(head.lastChild, STATES[part.state] ?? (part.approval?.approved ? "approved" : "denied"));
  write(input, json(part.input ?? part.rawInput));
  write(output, part.errorText ?? json(part.output));
  question.hidden = part.state !== "approval-requested";
  [...question.querySelectorAll("button")].forEach((button, approved) => {
    button.disabled = busy;
    button.onclick = () => (made.focus(), act(() => decide(message, part, Boolean(approved))));
  });
  return made;
}

// ---- the page

$("form").onsubmit = (event) => {
  event.preventDefault();
  const text = $("field").value.trim();
  if (!text || busy) return;
  $("field").value = "";
  $("scroll").scrollTop = $("scroll").scrollHeight;
  act(() => send(text));
};
$("field").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) $("form").onsubmit(event);
};
$("cut").onclick = () => {
  wait = WAIT_CUT_MS;
  connection.abort();
  $("scroll").focus(); // the button goes
};
$("stop").onclick = () => {
  const options = { method: "POST", headers: { "x-agent-id": agent } };
  fetch(`/api/chat/${session}/stop`, options).catch(() => {}); // the stream says what comes of it
  $("field").focus();
};
$("new").onclick = () => location.assign(location.pathname + location.search);
addEventListener("hashchange", () => location.reload());
// Another tab may have gone on with this conversation meanwhile.
document.addEventListener("visibilitychange", () => document.hidden || !location.hash || act(load));

$("agent").textContent = agent;
const chip = (idea) => h("button", { textContent: idea, onclick: () => act(() => send(idea)) });
if (agent === "demo") $("chips").append(...IDEAS.map(chip));
act(async () => named && load());
