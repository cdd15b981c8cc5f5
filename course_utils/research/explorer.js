// Runs in the reader's browser, in two ways: as a widget, which can ask the kernel, and inside a page without a
// kernel, which has what was embedded. `ask` sends a question to Python and gives its reply; it is null in a page.

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
const RUNS = "!#%()*+,./:;=?@[]^`{|}~"; // two zeros, three zeros, ...
const BLUE = [0, 114, 178];
const ORANGE = [230, 159, 0];
const PATIENCE = 30000; // milliseconds until we say that Python does not answer

const STYLE = `
.course-explorer { color: inherit; font: 14px/1.5 system-ui, sans-serif; max-width: 880px; padding: 4px 0; }
.course-explorer button { color: inherit; font: inherit; background: transparent; cursor: pointer;
  border: 1px solid rgba(128,128,128,.45); border-radius: 4px; padding: 1px 4px; margin: 1px; min-width: 1.6em; }
.course-explorer button:focus-visible, .course-explorer select:focus-visible, .course-explorer input:focus-visible
  { outline: 3px solid #E69F00; outline-offset: 1px; }
.course-explorer button[aria-pressed=true] { border: 2px solid #E69F00; font-weight: 600; }
.course-explorer select, .course-explorer input { font: inherit; color: inherit; background: transparent;
  border: 1px solid rgba(128,128,128,.7); }
.course-explorer input[type=text] { width: 24em; max-width: 70%; padding: 2px 4px; }
.course-explorer option { color: #000; background: #fff; }
.course-explorer .row { margin: 6px 0; display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center; }
.course-explorer .tokens { font-family: ui-monospace, monospace; margin: 6px 0; }
.course-explorer .steps { display: grid; grid-template-columns: auto 1fr; gap: 2px 10px; align-items: center; }
.course-explorer .patches { position: relative; width: 320px; height: 320px; }
.course-explorer .patches img { width: 100%; height: 100%; image-rendering: pixelated; display: block; }
.course-explorer .patches .grid { position: absolute; inset: 0; display: grid; }
.course-explorer .patches button { margin: 0; padding: 0; min-width: 0; border-radius: 0; border: 0; }
.course-explorer .patches button[aria-pressed=true] { border: 3px solid #E69F00; }
.course-explorer canvas { image-rendering: pixelated; width: 224px; height: 224px;
  border: 1px solid rgba(128,128,128,.45); }
.course-explorer td, .course-explorer th { padding: 2px 10px 2px 0; text-align: left; vertical-align: top; }
.course-explorer table { border-collapse: collapse; }
.course-explorer .note { opacity: .8; }
`;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// A weight as a background: more blue for more. White letters only where black and white would both be hard to read.
function shade(element, weight) {
  element.style.backgroundColor = `rgba(${BLUE.join(",")},${weight.toFixed(3)})`;
  element.style.color = weight > 0.8 ? "#fff" : "inherit";
}

// A space and the end of a line are tokens, too: they get a sign that can be seen.
const visible = (token) => token.replace(/ /g, "·").replace(/\n/g, "↵") || "∅";
const percent = (share) => (share < 0.0005 ? "<0.1 %" : `${(100 * share).toFixed(1)} %`);

// What `explorer.pack` wrote, as rows of numbers. `sizes` says how many numbers each row has.
function unpack(packed, sizes) {
  let at = 0;
  return sizes.map((size) => {
    const top = (64 * DIGITS.indexOf(packed[at]) + DIGITS.indexOf(packed[at + 1])) / 4095;
    at += 2;
    const row = new Float32Array(size);
    for (let i = 0; i < size; at += 1) {
      const digit = DIGITS.indexOf(packed[at]);
      if (digit < 0) i += RUNS.indexOf(packed[at]) + 2;
      else row[i++] = (top * digit) / 63;
    }
    return row;
  });
}

// The rows of every head: rows[(layer * heads + head) * n + query].
function rowsOf(data, maps) {
  const sizes = [];
  for (let head = 0; head < data.layers * data.heads; head += 1) {
    for (let query = 0; query < data.n; query += 1) sizes.push(data.causal ? query + 1 : data.n);
  }
  return unpack(maps, sizes);
}

function choice(label, names, value, changed) {
  const select = make("select");
  names.forEach((name, i) => select.append(make("option", { value: i, textContent: name })));
  select.value = value;
  select.setAttribute("aria-label", label);
  select.onchange = () => changed(Number(select.value));
  return [make("label", {}, `${label} `, select), select];
}

const count = (bits) => (bits === 1 ? "1 bit" : `${bits} bits`);
const upTo = (count) => Array.from({ length: count }, (_, i) => String(i));

// ------------------------------------------------------------------ attention, of tokens or of patches

function attention(data, ask, el) {
  const state = { ...data.start, off: [] };
  const plain = { rows: rowsOf(data, data.maps), answer: data.answer };
  let now = plain;
  const status = make("div", { className: "row" });
  const answer = make("div", { className: "row" });
  const note = make("div", { className: "row note" });
  [status, answer, note].forEach((line) => line.setAttribute("role", "status"));
  const [layer] = choice("Layer", upTo(data.layers), state.layer, (value) => { state.layer = value; draw(); });
  const [head] = choice("Head", upTo(data.heads), state.head, (value) => { state.head = value; draw(); });
  const box = make("input", { type: "checkbox" });
  const all = make("button", { textContent: "All heads on", type: "button" });
  const parts = data.kind === "patches" ? patchButtons(data, pick) : tokenButtons(data, pick);

  function pick(query) {
    state.query = query;
    draw();
  }
  const isOff = () => state.off.some(([l, h]) => l === state.layer && h === state.head);

  box.onchange = () => {
    const others = state.off.filter(([l, h]) => l !== state.layer || h !== state.head);
    const here = [state.layer, state.head];
    // Without Python only single heads were tried beforehand.
    if (box.checked) state.off = ask ? [...others, here] : [here];
    else state.off = others;
    change();
  };
  all.onclick = () => { state.off = []; change(); };

  async function change() {
    note.textContent = "";
    const wanted = JSON.stringify(state.off);
    if (!state.off.length) now = plain;
    else if (ask) {
      answer.textContent = "Python computes …";
      const reply = await ask({ ask: "without", heads: state.off });
      if (wanted !== JSON.stringify(state.off)) return; // the reader has gone on
      if (reply.problem) note.textContent = reply.problem;
      else now = { rows: rowsOf(data, reply.maps), answer: reply.answer };
    } else {
      const known = data.off[state.off[0][0] * data.heads + state.off[0][1]];
      now = { rows: plain.rows, answer: known };
      note.textContent =
        "Tried beforehand, one head at a time; the shading is of the whole model. With Python behind the page " +
        "you can switch several off, and the shading follows.";
    }
    draw();
  }

  function draw() {
    const row = now.rows[(state.layer * data.heads + state.head) * data.n + state.query];
    parts.draw(row, state.query);
    box.checked = isOff();
    const order = [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, 3);
    const looks = order.map((i) => `${parts.name(i)} ${row[i].toFixed(2)}`).join(", ");
    status.textContent = `Layer ${state.layer}, head ${state.head}: ${parts.name(state.query)} looks at ${looks}.`;
    const off = state.off.map(([l, h]) => `${l}.${h}`).join(", ");
    const before = off ? `Without ${off} (layer.head): ` : "All heads on: ";
    answer.textContent = before + parts.says(now.answer);
  }

  const off = make("label", {}, box, " this head off");
  el.append(make("div", { className: "row" }, layer, head, off, all), parts.element, status, answer, note);
  draw();
}

function tokenButtons(data, pick) {
  const element = make("div", { className: "tokens" });
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", "The tokens of the prompt: choose the one that looks");
  const buttons = data.tokens.map((token, i) => {
    const button = make("button", { textContent: visible(token), type: "button", onclick: () => pick(i) });
    element.append(button);
    if (token.includes("\n")) element.append(make("br"));
    return button;
  });
  return {
    element,
    name: (i) => `“${visible(data.tokens[i])}” (${i})`,
    says: (answer) =>
      `the model answers “${answer.text}”; probability of “${data.answer.text}”: ${percent(answer.chance)}.`,
    draw(row, query) {
      buttons.forEach((button, i) => {
        const weight = row[i] || 0; // later tokens can't be seen
        shade(button, weight);
        button.title = `token ${i}: ${weight.toFixed(2)}`;
        button.setAttribute("aria-pressed", i === query);
        button.style.opacity = i > query ? 0.45 : 1;
      });
    },
  };
}

function patchButtons(data, pick) {
  const grid = make("div", { className: "grid" });
  grid.style.gridTemplateColumns = `repeat(${data.side}, 1fr)`;
  const picture = make("img", { src: data.picture, alt: data.alt });
  const whole = make("button", { textContent: "class token", type: "button", onclick: () => pick(0) });
  const buttons = [whole];
  for (let i = 1; i < data.n; i += 1) {
    const button = make("button", { type: "button", onclick: () => pick(i) });
    buttons.push(button);
    grid.append(button);
  }
  const name = (i) => (i ? `row ${Math.floor((i - 1) / data.side)}, column ${(i - 1) % data.side}` : "class token");
  return {
    element: make("div", { className: "row" }, make("div", { className: "patches" }, picture, grid), whole),
    name,
    says: (answer) => answer.map(([caption, chance]) => `“${caption}” ${percent(chance)}`).join(", ") + ".",
    draw(row, query) {
      const top = Math.max(...row);
      buttons.forEach((button, i) => {
        // A picture lies below: what gets little is darkened, what gets most is left as it is.
        const dark = 0.8 * (1 - Math.sqrt(row[i] / top));
        if (i) button.style.backgroundColor = `rgba(0,0,0,${dark.toFixed(3)})`;
        else shade(button, row[i]);
        button.title = `${name(i)}: ${row[i].toFixed(3)}`;
        button.setAttribute("aria-label", button.title);
        button.setAttribute("aria-pressed", i === query);
      });
    },
  };
}

// ------------------------------------------------------------------ live token probabilities

function probabilities(data, ask, el) {
  let steps = data.steps; // of each step: [text, id, probability] of the first choices
  let path = data.path; // the ids that the text has
  let forced = null; // where the reader's own choice stands
  const text = make("div", { className: "tokens" });
  const table = make("div", { className: "steps" });
  const note = make("div", { className: "row note" });
  [text, note].forEach((line) => line.setAttribute("role", "status"));
  const back = make("button", { textContent: "Back to the model's own choices", type: "button" });
  back.onclick = () => show(data.steps, data.path, null, "");

  function show(newSteps, newPath, place, told) {
    [steps, path, forced] = [newSteps, newPath, place];
    note.textContent = told;
    draw();
  }

  async function follow(place, id) {
    if (path[place] === id) return;
    const begun = [...path.slice(0, place), id];
    const known = forced === null && data.branches[`${place}.${id}`];
    if (known) show([...steps.slice(0, place + 1), ...known.steps], [...begun, ...known.path], place, "");
    else if (!ask) {
      note.textContent =
        "Without Python behind the page, one other choice was tried at each place, from the model's own text. " +
        "Go back first, or run the notebook to go on from here.";
    } else {
      note.textContent = "Python computes …";
      const reply = await ask({ ask: "follow", path: begun });
      if (reply.problem) note.textContent = reply.problem;
      else show([...steps.slice(0, place + 1), ...reply.steps], [...begun, ...reply.path], place, "");
    }
  }

  function draw() {
    text.replaceChildren(make("b", { textContent: "The text: " }));
    table.replaceChildren();
    steps.forEach((choices, place) => {
      const row = make("div");
      for (const [token, id, chance] of choices) {
        const label = `${visible(token)} ${percent(chance)}`;
        const button = make("button", { textContent: label, type: "button", onclick: () => follow(place, id) });
        shade(button, chance);
        button.setAttribute("aria-pressed", path[place] === id);
        row.append(button);
        if (path[place] === id) {
          const piece = make("span", { textContent: token });
          if (place === forced) piece.style.cssText = "border-bottom: 3px solid #E69F00; font-weight: 600";
          text.append(piece);
        }
      }
      table.append(make("span", { textContent: place, className: "note" }), row);
    });
  }

  el.append(text, table, make("div", { className: "row" }, back), note);
  draw();
}

// ------------------------------------------------------------------ bits a weight

function bits(data, ask, el) {
  let at = data.bits.length - 1; // the slider goes from 1 bit to 16
  let own = null; // the reader's question
  const slider = make("input", { type: "range", min: 0, max: at, step: 1, value: at });
  slider.setAttribute("aria-label", "Bits a weight");
  const told = make("span");
  const canvas = make("canvas", { width: data.side, height: data.side });
  const table = make("table");
  const note = make("div", { className: "row note" });
  [told, note].forEach((line) => line.setAttribute("role", "status"));
  slider.oninput = () => {
    at = Number(slider.value);
    draw();
  };
  slider.onchange = () => own && again(); // the model is asked when the slider is let go

  async function again() {
    const wanted = { ask: "answer", bits: data.bits[at], question: own.question };
    note.textContent = "Python computes …";
    const reply = await ask(wanted);
    note.textContent = reply.problem || "";
    if (!reply.problem) own = { ...own, answer: reply.answer, bits: wanted.bits };
    draw();
  }

  function draw() {
    const level = data.levels[at];
    const zero = level.zero ? percent(level.zero) : "none";
    told.textContent =
      `${count(data.bits[at])} a weight: ${level.megabytes.toFixed(1)} MB; a group of ` +
      `64 weights holds ${level.values.toFixed(0)} different values; ${zero} of the weights are zero.`;
    slider.setAttribute("aria-valuetext", told.textContent);
    paint(canvas, level.weights);
    canvas.setAttribute("aria-label", `A corner of the matrix ${data.matrix} at ${count(data.bits[at])}`);
    const head = ["Question", "Answer", ""].map((name) => make("th", { textContent: name, scope: "col" }));
    table.replaceChildren(make("tr", {}, ...head));
    data.questions.forEach(([question, right], i) => {
      const mark = level.answers[i] === right ? "right" : `wrong: ${right}`;
      line(question, level.answers[i], mark);
    });
    if (own?.answer !== undefined) line(own.question, own.answer, `yours, at ${count(own.bits)}`);
  }

  function line(...cells) {
    table.append(make("tr", {}, ...cells.map((text) => make("td", { textContent: text || "(nothing)" }))));
  }

  const control = make("div", { className: "row" }, "1 bit ", slider, " 16 bits");
  canvas.setAttribute("role", "img");
  el.append(control, make("div", { className: "row" }, told), make("div", { className: "row" }, canvas, table));
  if (ask) {
    const field = make("input", { type: "text", placeholder: data.example, maxLength: 200 });
    field.setAttribute("aria-label", "A question of your own");
    const button = make("button", { textContent: "Ask at this many bits", type: "button" });
    button.onclick = () => { own = { question: field.value }; again(); };
    el.append(make("div", { className: "row" }, field, button));
  } else note.textContent = "With Python behind the page you can ask a question of your own at any number of bits.";
  el.append(note);
  draw();
}

// Weights from -1 (orange) over 0 (white) to 1 (blue).
function paint(canvas, packed) {
  const paper = canvas.getContext("2d");
  const image = paper.createImageData(canvas.width, canvas.height);
  [...packed].forEach((digit, i) => {
    const weight = (DIGITS.indexOf(digit) - 31) / 31;
    const ink = weight < 0 ? ORANGE : BLUE;
    ink.forEach((colour, c) => (image.data[4 * i + c] = 255 - Math.abs(weight) * (255 - colour)));
    image.data[4 * i + 3] = 255;
  });
  paper.putImageData(image, 0, 0);
}

// ------------------------------------------------------------------ both ways to run

const FACES = { attention, patches: attention, probabilities, bits };

function build(data, ask, el) {
  const place = make("div", { className: "course-explorer" });
  place.append(make("style", { textContent: STYLE }));
  el.append(place);
  FACES[data.kind](data, ask, place);
}

// Questions to Python carry a number, so that each reply finds its question.
function asker(model) {
  const waiting = new Map();
  let number = 0;
  model.on("msg:custom", (reply) => {
    waiting.get(reply.number)?.(reply);
    waiting.delete(reply.number);
  });
  const problem = "Python does not answer. Is another cell running, or was the kernel restarted? Run this cell again.";
  return (question) =>
    new Promise((done) => {
      const mine = (number += 1);
      waiting.set(mine, done);
      model.send({ ...question, number: mine });
      setTimeout(() => waiting.delete(mine) && done({ problem }), PATIENCE);
    });
}

function render({ model, el }) {
  const page = document.getElementById(model.get("page"));
  if (page) page.style.display = "none"; // what is shown where no widget can be
  build(model.get("data"), asker(model), el);
}

export default { render };
