// The chat page: a conversation over /v1/chat/completions. What a model wrote only ever becomes text nodes.

const $ = (id) => document.getElementById(id);
const log = $("log"), input = $("input"), settings = $("settings").querySelector("form");

let messages = []; // as the API takes them, without the system prompt
let running = null; // the AbortController of the answer that is being generated
let generation = 0; // counts conversations, so that a late answer finds out that its own is over

// ---- Elements -------------------------------------------------------------------------------------------------------

function make(tag, options = {}, ...children) {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name.startsWith("on")) found.addEventListener(name.slice(2), value);
    else found.setAttribute(name, value);
  }
  found.append(...children);
  return found;
}

const button = (text, click, options = {}) => make("button", { type: "button", onclick: click, ...options }, text);

// Code between fences and backticks is marked; everything else is the text as it is.
function showText(place, text) {
  const nodes = [];
  let at = 0;
  for (const found of text.matchAll(/^```[^\n`]*\n([^]*?)(?:\n?^```[ \t]*$\n?|$(?![^]))|`([^`\n]+)`/gm)) {
    const before = text.slice(at, found.index);
    nodes.push(found[2] === undefined ? before.replace(/\n+$/, "") : before); // a block has its own space
    nodes.push(found[2] === undefined ? make("pre", { tabindex: "0" }, make("code", {}, found[1])) : make("code", {}, found[2]));
    at = found.index + found[0].length;
  }
  place.replaceChildren(...nodes, text.slice(at));
}

function showError(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

function copy(text, place) {
  navigator.clipboard.writeText(text).then(() => { place.textContent = "Copied"; }, () => { place.textContent = "Not allowed"; });
  setTimeout(() => { place.textContent = "Copy"; }, 1500);
}

// ---- The conversation -----------------------------------------------------------------------------------------------

function callsWithoutResult() {
  const answered = new Set(messages.filter((each) => each.role === "tool").map((each) => each.tool_call_id));
  const last = messages.findLast((each) => each.role === "assistant");
  return (last?.tool_calls ?? []).filter((each) => !answered.has(each.id));
}

function draw() {
  const isDown = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  const lastUser = messages.findLastIndex((each) => each.role === "user");
  const parts = messages.flatMap((message, index) => {
    if (message.role === "user") return [drawUser(message, index === lastUser && !running)];
    return message.role === "assistant" ? [drawAssistant(message, index === messages.length - 1)] : [];
  });
  log.replaceChildren(...(parts.length ? parts : [make("p", { id: "empty" }, "Ask something to begin.")]));
  log.setAttribute("aria-busy", String(Boolean(running))); // read aloud when it is whole
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
  $("send").disabled = callsWithoutResult().length > 0;
  if (isDown) log.scrollTop = log.scrollHeight;
}

function drawUser(message, isLast) {
  const text = make("div", { class: "text" });
  showText(text, message.content);
  const found = make("article", { class: "user", "aria-label": "You" }, text);
  if (isLast) found.append(make("div", { class: "actions" }, button("Edit", edit)));
  return found;
}

function drawAssistant(message, isLast) {
  const isOpen = isLast && Boolean(running);
  const found = make("article", { class: "assistant", "aria-label": "Model", "aria-busy": String(isOpen) });
  if (message.reasoning) {
    const text = make("div", { class: "text" });
    showText(text, message.reasoning);
    const details = make("details", { class: "reasoning" }, make("summary", {}, isOpen && !message.content ? "Thinking…" : "Reasoning"), text);
    details.open = message.unfolded ?? false;
    details.addEventListener("toggle", () => { message.unfolded = details.open; });
    found.append(details);
  }
  const text = make("div", { class: "text" });
  showText(text, message.content);
  found.append(text);
  if (message.tool_calls?.length) found.append(drawCalls(message, isOpen));
  if (message.note) found.append(make("p", { class: "note" }, message.note));
  if (isLast && !running) {
    const copied = button("Copy", () => copy(message.content, copied));
    found.append(make("div", { class: "actions" }, ...(message.content ? [copied] : []), button("Regenerate", regenerate)));
  }
  return found;
}

function drawCalls(message, isOpen) {
  const open = isOpen ? [] : callsWithoutResult();
  const form = make("form", { class: "calls", onsubmit: (event) => { event.preventDefault(); answerCalls(form, open); } });
  for (const call of message.tool_calls) {
    const place = make("div", { class: "call" }, make("b", {}, call.function.name), `(${call.function.arguments})`);
    const result = messages.find((each) => each.tool_call_id === call.id);
    if (result) place.append(make("div", { class: "result" }, `→ ${result.content}`));
    else if (open.includes(call)) {
      place.append(make("label", {}, `Result of ${call.function.name}`, make("textarea", { name: call.id, rows: "1", onkeydown: submitOnEnter })));
    }
    form.append(place);
  }
  if (open.length) form.append(make("button", { class: "answer-calls" }, open.length > 1 ? "Send results" : "Send result"));
  return form;
}

function answerCalls(form, calls) {
  const given = new FormData(form);
  messages.push(...calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: given.get(call.id) })));
  input.focus();
  answer();
}

function edit() {
  const last = messages.findLastIndex((each) => each.role === "user");
  input.value = messages[last].content;
  messages.length = last;
  showError("");
  draw();
  input.focus();
}

function regenerate() {
  messages.length = messages.findLastIndex((each) => each.role !== "assistant") + 1;
  input.focus();
  answer();
}

function startAnew() {
  generation += 1;
  running?.abort();
  running = null;
  messages = [];
  showError("");
  $("status").textContent = "";
  draw();
  input.focus();
}

// ---- The server -----------------------------------------------------------------------------------------------------

async function call(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const response = await fetch(path, { ...options, headers: { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) } });
  if (response.ok) return response;
  const told = await response.json().then((body) => body.error?.message, () => null);
  const error = new Error(told ?? `The server answered with status ${response.status}.`);
  error.status = response.status;
  throw error;
}

async function* events(response) {
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:") && line.slice(5).trim() !== "[DONE]") yield JSON.parse(line.slice(5));
    }
  }
}

function request() {
  const { system, temperature, max_tokens, thinking, tools } = settings.elements;
  const said = messages.map(({ role, content, tool_calls, tool_call_id }) => ({ role, content, tool_calls, tool_call_id }));
  const body = {
    model: $("model").textContent,
    messages: system.value.trim() ? [{ role: "system", content: system.value }, ...said] : said,
    stream: true,
    stream_options: { include_usage: true },
    chat_template_kwargs: { enable_thinking: thinking.checked },
  };
  if (temperature.value) body.temperature = Number(temperature.value);
  if (max_tokens.value) body.max_tokens = Number(max_tokens.value);
  if (tools.value.trim()) body.tools = JSON.parse(tools.value);
  return JSON.stringify(body);
}

function takeDelta(message, delta) {
  message.content += delta.content ?? "";
  message.reasoning += delta.reasoning_content ?? "";
  for (const piece of delta.tool_calls ?? []) {
    message.tool_calls ??= [];
    const found = (message.tool_calls[piece.index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
    found.id ||= piece.id ?? "";
    found.function.name += piece.function?.name ?? "";
    found.function.arguments += piece.function?.arguments ?? "";
  }
}

const NOTES = { length: "Cut off: the greatest length is reached.", content_filter: "Left out by the server." };

async function answer() {
  const own = generation, controller = (running = new AbortController());
  const body = request(), message = { role: "assistant", content: "", reasoning: "" };
  messages.push(message);
  showError("");
  $("status").textContent = "";
  draw();
  log.scrollTop = log.scrollHeight;
  let isDue = false, first = 0, usage = null;
  const drawSoon = () => {
    if (isDue) return;
    isDue = true;
    // Not behind the end: what has been drawn then may have the focus, and what the user types.
    requestAnimationFrame(() => { isDue = false; if (running === controller) draw(); });
  };
  try {
    const response = await call("v1/chat/completions", { method: "POST", body, signal: controller.signal });
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      for (const choice of event.choices) {
        takeDelta(message, choice.delta);
        message.note = NOTES[choice.finish_reason] ?? message.note;
        if (choice.delta.content || choice.delta.reasoning_content || choice.delta.tool_calls) first ||= performance.now();
      }
      drawSoon();
    }
  } catch (error) {
    if (own !== generation) return;
    if (error.name === "AbortError") message.note = "Stopped.";
    else showError(error instanceof TypeError ? "The server cannot be reached." : error.message);
    if (error.status === 401) $("key").showModal();
    delete message.tool_calls; // they may not be whole
  }
  if (own !== generation) return;
  running = null;
  if (!message.content && !message.reasoning && !message.tool_calls && messages.at(-1) === message) messages.pop();
  if (usage) $("status").textContent = showUsage(usage, (performance.now() - first) / 1000);
  draw();
  log.querySelector(".call textarea")?.focus();
}

function showUsage({ prompt_tokens, completion_tokens }, seconds) {
  const parts = [`${prompt_tokens} prompt tokens`, `${completion_tokens} tokens`];
  if (completion_tokens > 1) parts.push(`${((completion_tokens - 1) / Math.max(seconds, 0.001)).toFixed(1)} tokens/s`);
  return parts.join(" · ");
}

async function showModel() {
  try {
    const found = await (await call("v1/models")).json();
    document.title = $("model").textContent = found.data[0].id;
    showError("");
  } catch (error) {
    if (error.status === 401) $("key").showModal();
    else showError(error instanceof TypeError ? "The server cannot be reached." : error.message);
  }
}

// ---- What the user does ---------------------------------------------------------------------------------------------

// While a Korean syllable is composed, Enter ends it; 229 is what older browsers give instead of isComposing.
function submitOnEnter(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  event.target.form.requestSubmit();
}

function checkSettings() {
  let wrong = "";
  try {
    const tools = settings.elements.tools.value.trim();
    if (tools && !Array.isArray(JSON.parse(tools))) wrong = "Tools are a JSON array of functions.";
  } catch (error) {
    wrong = `Tools are not JSON: ${error.message}`;
  }
  $("settings-error").textContent = wrong;
  $("settings-error").hidden = !wrong;
  return !wrong;
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running || !input.value.trim() || callsWithoutResult().length) return;
  messages.push({ role: "user", content: input.value });
  input.value = "";
  answer();
});
input.addEventListener("keydown", submitOnEnter);
$("stop").addEventListener("click", () => { running?.abort(); input.focus(); });
$("new").addEventListener("click", startAnew);
$("open-settings").addEventListener("click", () => $("settings").showModal());
settings.addEventListener("submit", (event) => { if (!checkSettings()) event.preventDefault(); });
$("settings").addEventListener("cancel", (event) => { if (!checkSettings()) event.preventDefault(); });
$("key").querySelector("form").addEventListener("submit", (event) => {
  sessionStorage.setItem("key", event.target.elements.key.value);
  event.target.reset();
  showModel();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing && !document.querySelector("dialog[open]")) running?.abort();
});
draw();
showModel();
