/* ---- the page: what is open follows the address, so that a place can be linked to ----
 *
 *     #lesson-6      opens a lesson
 *     #attention.0   shows a node of the graph
 *     #model?prompt=Speak&reply=Ay&token=3&all=1   types into the fields, chooses a token, and
 *                    takes the mask away */

const $ = id => document.getElementById(id);
const nodes = [...document.querySelectorAll("section.node")];
const drawn = [...document.querySelectorAll(".graph a")];

function element(tag, className, ...inside) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...inside);
  return made;
}

function showNode(id) {
  for (const node of nodes) node.hidden = node.id !== id;
  for (const a of drawn) {
    if (a.getAttribute("href") === "#" + id) a.setAttribute("aria-current", "true");
    else a.removeAttribute("aria-current");
  }
}

function followAddress() {
  const [id, query] = location.hash.slice(1).split(/\?(.*)/s), place = $(decodeURIComponent(id));
  if (!place) return;
  if (place.classList.contains("node")) showNode(place.id);
  if (place.tagName === "DETAILS") place.open = true;
  if (id === "model" && query !== undefined && $("typed")) typeFrom(new URLSearchParams(query));
  place.scrollIntoView();
}

/* Up and down go from node to node, like Tab, but do not leave the graph. */
function stepThrough(elements, before, after) {
  return event => {
    const i = elements().indexOf(document.activeElement);
    const to = i + (event.key === after) - (event.key === before);
    if (i < 0 || to === i || !elements()[to]) return;
    event.preventDefault();
    elements()[to].focus();
  };
}

/* ---- the reader's own model ---- */

const MOST_WRITTEN = 200;  // tokens of a reply that the model writes
const ORDERS = 3;  // the palest cell is 10^-3 of the darkest
let model, now;  // now: the text that is shown, with what was computed for it

function startModel() {
  const data = JSON.parse($("weights").textContent), first = JSON.parse($("first").textContent);
  model = {...data, w: readWeights(data.weights, data.tensors), ids: new Map()};
  data.symbols.forEach((symbol, id) => symbol !== null && model.ids.set(symbol, id));
  $("prompt").value = first.prompt;
  $("reply").value = first.reply;
  $("typed").addEventListener("input", () => soon(compute, 300));
  $("typed").addEventListener("submit", event => event.preventDefault());
  $("write").addEventListener("click", () => {
    $("reply").value = "";
    soon(compute);
  });
  soon(compute);
  const tokens = () => [...$("picture").querySelectorAll("button")];
  $("picture").addEventListener("keydown", stepThrough(tokens, "ArrowLeft", "ArrowRight"));
  $("picture").addEventListener("keydown", event => {
    if (event.key === "Escape") soon(() => choose(null));
  });
}

function typeFrom(query) {
  $("prompt").value = query.get("prompt") ?? "";
  $("reply").value = query.get("reply") ?? "";
  if ($("all")) $("all").checked = query.has("all");
  soon(() => {
    compute();
    if (query.has("token")) choose(Number(query.get("token")));
  });
}

/* Do some work when the page has shown that it computes: a long text takes a second or two. What
 * waits already is not done. */
let waiting;
function soon(work, milliseconds = 20) {
  clearTimeout(waiting);
  $("message").textContent = "Computing ...";
  waiting = setTimeout(work, milliseconds);
}

/* The ids of a text. Letters and accents are composed or apart, whichever the vocabulary has. */
function encode(text) {
  text = text.replace(/\r\n?/g, "\n");
  const forms = [text.normalize("NFC"), text, text.normalize("NFD")];
  const written = forms.find(form => [...form].every(c => model.ids.has(c)));
  if (written === undefined) {
    const lacking = [...new Set([...forms[0]].filter(c => !model.ids.has(c)))];
    throw new Error(`This vocabulary lacks ${lacking.map(c => `“${c}”`).join(", ")}.`);
  }
  const forged = model.forgeable.find(marker => text.includes(marker));
  if (forged) throw new Error(`${JSON.stringify(forged)} begins a turn, so no text may hold it.`);
  return [...written].map(c => model.ids.get(c));
}

/* The tokens of the two fields by the template, and for each whether the model is graded on it. An
 * empty reply is left open. */
function render() {
  const tokens = [], trained = [];
  const add = (ids, graded) => ids.forEach(id => (tokens.push(id), trained.push(graded)));
  const {user, assistant} = model, prompt = $("prompt").value, reply = $("reply").value;
  if (!prompt) throw new Error("The first field is empty.");
  [user.opens, encode(prompt), user.closes].forEach((ids, i) => add(ids, user.graded[i]));
  add(assistant.opens, assistant.graded[0]);
  if (reply) {
    add(encode(reply), assistant.graded[1]);
    add(assistant.closes, assistant.graded[2]);
  }
  const most = model.sizes.T + 1;  // the last token is read by no row
  if (tokens.length > most) {
    const count = `These are ${tokens.length} tokens, and the model reads ${most}.`;
    throw new Error(`${count} Shorten them.`);
  }
  return {tokens, trained, isOpen: !reply};
}

/* Append the most likely token, until the model ends its reply or there is no more room. */
function write(text, rows) {
  for (let n = 0; n < MOST_WRITTEN && text.tokens.length < model.sizes.T; n++) {
    const row = forwardRow(model, rows, text.tokens.at(-1));
    const next = row.logits.indexOf(Math.max(...row.logits)), ends = next === model.end;
    text.tokens.push(next);
    text.trained.push(model.assistant.graded[ends ? 2 : 1]);
    if (ends) return;
  }
}

/* Compute the text in the fields, forward and backward, and show it. */
function compute() {
  try {
    now = render();
  } catch (error) {
    now = null;
    $("message").textContent = error.message;
    for (const id of ["picture", "detail", "numbers"]) $(id).replaceChildren();
    return;
  }
  const {tokens, trained} = now;
  now.rows = [];
  for (const token of tokens.slice(0, -1)) forwardRow(model, now.rows, token);
  if (now.isOpen) write(now, now.rows);
  if ($("all") && $("all").checked) trained.fill(true);
  trained[0] = false;  // no row predicts it
  now.labels = now.rows.map((row, n) => trained[n + 1] ? tokens[n + 1] : null);
  now.nll = now.rows.map((row, n) => now.labels[n] === null ? 0 : nllOf(row, now.labels[n]));
  now.graded = now.labels.filter(label => label !== null).length;
  choose(null);
}

/* What is known of the whole text, in words. */
function summary() {
  const V = model.sizes.V, total = now.nll.reduce((sum, nll) => sum + nll, 0);
  const isCut = now.isOpen && model.end !== null && now.tokens.at(-1) !== model.end;
  const loss = now.graded ? (total / now.graded).toFixed(3) : "–";
  return `${now.tokens.length} tokens, ${now.graded} of them graded. Loss: ${loss} nats per graded`
    + ` token; chance is ${Math.log(V).toFixed(3)}, ln ${V}.`
    + (now.isOpen ? ` The model wrote the ${model.end === null ? "rest" : "reply"} itself.` : "")
    + (isCut ? " It did not end." : "");
}

/* Take the gradient of the loss of one token alone, by its position; null is the mean over all that
 * are graded. */
function choose(i) {
  if (!now) return;
  now.chosen = i !== null && i < now.tokens.length && i !== now.chosen ? i : null;
  const alone = now.chosen !== null && now.trained[now.chosen];
  const dnll = now.labels.map((label, n) => {
    if (label === null) return 0;
    return alone ? Number(n === now.chosen - 1) : 1 / now.graded;
  });
  now.norms = gradientNorms(model, now.rows, now.labels, dnll);
  draw();
  describe(alone);
  $("message").textContent = summary();
  const {tokens, trained, nll, norms, chosen} = now;
  $("numbers").textContent = JSON.stringify({tokens, trained, nll, norms, chosen});
}

const SHOWN = {" ": "␣", "\n": "⏎", "\t": "⇥"};

function nameOf(id) {
  const symbol = model.symbols[id];
  return symbol === null ? model.special[id].replace(/^<\|?|\|?>$/g, "") : SHOWN[symbol] ?? symbol;
}

const percent = p => p < 0.0001 ? "under 0.01 %" : `${(100 * p).toPrecision(p < 0.01 ? 1 : 3)} %`;

/* Draw a column for each token: its box, its loss, and the gradient in the row that reads it. */
function draw() {
  const {tokens, trained, nll, norms} = now, chance = Math.log(model.sizes.V);
  const focused = [...$("picture").querySelectorAll("button")].indexOf(document.activeElement);
  const tallest = Math.max(1.4 * chance, ...nll), largest = Math.max(...norms.flat());
  $("picture").style.setProperty("--chance", `${100 * chance / tallest}%`);
  const columns = tokens.map((token, i) => {
    const bar = element("span", "bar"), cells = element("span", "cells");
    if (trained[i]) {
      const inner = element("i", nll[i - 1] > chance ? "above" : "");
      inner.style.height = `${100 * nll[i - 1] / tallest}%`;
      bar.append(inner);
    }
    for (let layer = norms.length - 1; layer >= 0; layer--) {
      const norm = norms[layer][i], cell = element("i", norm ? "" : norm === 0 ? "zero" : "none");
      const share = 1 + Math.log10(norm / largest) / ORDERS;
      if (norm) cell.style.setProperty("--v", Math.min(1, Math.max(0.05, share)).toFixed(3));
      cells.append(cell);
    }
    const special = model.symbols[token] === null;
    const box = element("span", special ? "box special" : "box", nameOf(token));
    const button = element("button", trained[i] ? "graded" : "masked", box, bar, cells);
    button.type = "button";
    button.tabIndex = i === Math.max(0, focused) ? 0 : -1;
    button.setAttribute("aria-pressed", i === now.chosen);
    const loss = trained[i] ? `graded, loss ${nll[i - 1].toFixed(2)} nats` : "masked";
    button.setAttribute("aria-label", `position ${i}, ${nameOf(token)}: ${loss}`);
    button.title = `${nameOf(token)}: ${loss}`;
    button.addEventListener("click", () => soon(() => choose(i)));
    return button;
  });
  const names = ["lnf", ...Array.from({length: model.sizes.L}, (_, i) => `block ${i}`).reverse()];
  const axis = element("div", "axis", element("span", "box", "token"),
    element("span", "bar", element("b", "", "chance"), "loss"),
    element("span", "cells", ...names.map(name => element("i", "", name))));
  $("picture").replaceChildren(axis, ...columns);
  columns[focused]?.focus({preventScroll: true});
}

/* What is known of the chosen token, in words. */
function describe(alone) {
  const i = now.chosen, norms = now.norms, largest = Math.max(...norms.flat());
  const scale = `The darkest cell is ${largest.toPrecision(3)}, the palest a thousandth of it.`;
  if (i === null) {
    $("detail").replaceChildren(element("p", "", `Gradient of the mean loss. ${scale}`));
    return;
  }
  const name = nameOf(now.tokens[i]), lines = [];
  const before = i ? now.rows[i - 1] : null, p = id => Math.exp(before.logits[id] - before.lse);
  if (!before) lines.push(`“${name}” is the first token. No row predicts it.`);
  else {
    const own = p(now.tokens[i]), best = [...before.logits.keys()];
    best.sort((a, b) => before.logits[b] - before.logits[a]);
    const listed = best.slice(0, 5).map(id => `“${nameOf(id)}” ${percent(p(id))}`).join(", ");
    const graded = now.trained[i] ? `is graded: loss ${now.nll[i - 1].toFixed(3)} nats`
      : "is masked: no loss";
    lines.push(`“${name}” at position ${i} ${graded}. The model gave it ${percent(own)}; chance is`
      + ` ${percent(1 / model.sizes.V)}.`, `Most likely here: ${listed}.`);
  }
  const of = alone ? "the loss of this token alone" : "the mean loss";
  const row = alone ? i - 1 : i, does = alone ? "predicts" : "reads";
  if (row === now.rows.length) lines.push("It is the last token, so no row reads it.");
  else {
    const sizes = norms.map((layer, n) => `${n < model.sizes.L ? `block ${n}` : "lnf"} `
      + (layer[row] ? layer[row].toPrecision(3) : "0"));
    lines.push(`Length of the gradient of ${of} in the row that ${does} it:`
      + ` ${sizes.reverse().join(", ")}.`);
  }
  lines.push(`The picture shows the gradient of ${of}. ${scale}`);
  const back = element("button", "", "Show the mean loss again");
  back.type = "button";
  back.addEventListener("click", () => soon(() => choose(null)));
  $("detail").replaceChildren(...lines.map(line => element("p", "", line)), back);
}

/* ---- start ---- */

if (nodes.length) showNode(nodes[0].id);
document.querySelector(".graph")?.addEventListener(
  "keydown", stepThrough(() => drawn, "ArrowUp", "ArrowDown"));
if ($("weights")) startModel();
addEventListener("hashchange", followAddress);
followAddress();
