// Draws a trace. A block's events are put into frames: of warps in step, what each warp does at
// once, all warps side by side; in an order of single threads, what a thread does before the next.
//
// Read next: page.css.
"use strict";

const $ = (id) => document.getElementById(id);
const KINDS = ["path", "load", "store", "shuffle", "vote", "barrier"]; // later ones cover earlier
const WARP = 32, MOST_CELLS = 8192;
const state = { version: 0, order: 0, launch: 0, block: 0, step: 0 };
let versions, launch, threads, frames, grids, timer;

const run = () => versions[state.version].runs[Math.max(state.order - 1, 0)];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name);

function element(tag, text, attributes = {}) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.textContent = text;
  return made;
}

// A step of a warp as an event: its place, its threads, and the element that each of them accesses.
function eventOf(step, warp) {
  const [place, mask, array, first, stride] = step, lanes = [];
  for (let lane = 0; lane < WARP; lane++) if ((mask >>> lane) & 1) lanes.push(lane);
  const at = Array.isArray(first) ? first : lanes.map((lane) => first + stride * (lane - lanes[0]));
  const { kind, bytes, line, frames } = launch.places[place];
  return { kind, bytes, line, frames, array, at, threads: lanes.map((lane) => warp * WARP + lane) };
}

function framesInStep(warps) {
  const made = [], at = warps.map(() => 0), clock = warps.map(() => 0);
  const put = (w) => (made[clock[w]] ??= []).push(warps[w][at[w]++]), left = (w) => warps[w][at[w]];
  while (warps.some((_, w) => left(w))) {
    warps.forEach((_, w) => {
      for (; left(w) && left(w).kind !== "barrier"; clock[w]++) put(w);
    });
    const meet = Math.max(...clock); // a barrier lets none go on before the last has come
    warps.forEach((_, w) => {
      clock[w] = meet;
      if (left(w)) put(w), clock[w]++;
    });
  }
  return Array.from(made, (events) => events ?? []);
}

function framesInOrder(warps) {
  const own = Array.from({ length: threads }, () => []), at = own.map(() => 0);
  for (const event of warps.flat())
    event.threads.forEach((thread, i) =>
      own[thread].push({ ...event, at: [event.at[i]], threads: [thread] }));
  return launch.order
    .filter(([thread]) => Math.floor(thread / threads) === state.block)
    .map(([thread, count]) => own[thread % threads].slice(at[thread % threads],
                                                          at[thread % threads] += count));
}

function select() {
  launch = run().trace.launches[state.launch];
  threads = launch.block.reduce((a, b) => a * b);
  const warps = launch.warps.filter((warp) => warp.block === state.block)
    .map((warp) => warp.steps.map((step) => eventOf(step, warp.warp)));
  frames = state.order ? framesInOrder(warps) : framesInStep(warps);
  state.step = Math.min(state.step, frames.length - 1);
  $("slider").max = frames.length - 1;
  $("ordered").textContent = ["warps in step, as on a GPU", "single threads, in one order",
                              "single threads, in another order"][state.order];
  showResults();
  const files = Object.keys(run().trace.sources), at = $("file").value;
  $("file").replaceChildren(...files.map((file) => new Option(file)));
  $("file").value = files.includes(at) ? at : launch.file;
  showSource();
  showFigures();
  layOut();
}

function showResults() {
  const order = state.order > 1 ? "this other order" : "the first order", lines = run().results.map(
    ({ name, wrong, elements, shown }) => `${name}: ${wrong} of ${elements} values are wrong in ` +
      `${order} of threads` + shown.map(([i, right, got]) => `; [${i}] is ${got}, not ${right}`)
        .join(""));
  if (state.version && !lines.length) lines.push(`No value happens to be wrong in ${order}.`);
  $("results").replaceChildren(...lines.map((line) => element("p", line)));
}

const short = (n) => !n ? "" : n < 1e4 ? n : n < 1e6 ? Math.round(n / 1e3) + "k"
                                                      : (n / 1e6).toFixed(1) + "M";

function showSource() {
  const file = $("file").value, rows = launch.lines.filter((row) => row.file === file);
  const most = Math.max(...rows.map((row) => row.bytes), 1);
  const head = element("div", "", { className: "head" });
  head.append(...["line", "access", "bytes", "lanes", ""]
    .map((text, i) => element(i < 4 ? "span" : "code", text)));
  $("source").replaceChildren(head, ...run().trace.sources[file].map((text, i) => {
    const row = rows.find((row) => row.line === i + 1), line = element("div", "");
    const [number, count, bytes, lanes] = [i + 1, row && (row.load ?? 0) + (row.store ?? 0),
      row?.bytes, row?.lanes].map((n, k) => element("span", k ? short(n) : n));
    bytes.className = "bar";
    bytes.style.setProperty("--share", `${(100 * (row?.bytes ?? 0)) / most}%`);
    if (row?.lanes < WARP) lanes.className = "parted";
    if (row) line.title = KINDS.filter((kind) => row[kind])
      .map((kind) => `${row[kind]} ${kind}`).join(", ") + ` of warps, ${row.lanes} threads active`;
    line.append(number, count, bytes, lanes, element("code", text));
    return line;
  }));
}

// A grid of cells for each array: a gap between sectors of 32 bytes; of shared memory a row has the
// 128 bytes of all banks.
function layOut() {
  const width = $("arrays").clientWidth - 16, touched = launch.arrays.map(() => [Infinity, -1]);
  for (const event of frames.flat())
    if (event.array !== undefined)
      for (const i of event.at) {
        const range = touched[event.array];
        range[0] = Math.min(range[0], i), range[1] = Math.max(range[1], i + spanOf(event));
      }
  $("arrays").replaceChildren();
  grids = launch.arrays.map((array, number) => {
    let [from, to] = array.elements <= MOST_CELLS ? [0, array.elements] : touched[number];
    const some = touched[number][1] >= 0, sector = Math.max(1, 32 / array.itemsize);
    to = Math.min(to, from + MOST_CELLS);
    const part = to - from < array.elements ? `, elements ${from} to ${to - 1}` : "";
    $("arrays").append(element("div", `${array.name}  ${array.type}, ${array.elements} elements` +
      `${array.shared ? ", shared: a row is the 32 banks" : ""}` +
      `${some ? part : "; this block does not touch it"}`, { className: "name" }));
    if (!some) return null;
    const count = to - from, wanted = array.shared ? width * sector / (4 * sector * sector + 4)
      : count <= 256 ? 12 : count <= 1024 ? 8 : count <= 2560 ? 6 : 4;
    const size = Math.max(2, Math.min(12, Math.floor(wanted))), wide = sector * size + 1;
    const across = array.shared ? 4 : Math.max(1, Math.floor(width / wide)), row = across * sector;
    const shift = Math.floor((from * array.itemsize + array.offset) / array.itemsize)
                  % (array.shared ? row : sector);
    const high = Math.ceil((count + shift) / row) * (size + 1), canvas = element("canvas", "");
    const grid = { array, number, from, to, size, sector, row, shift, canvas, wide,
                   pen: prepare(canvas, across * wide, high) };
    const point = (e) => {
      const x = Math.floor(e.offsetX / wide) * sector + Math.floor((e.offsetX % wide) / size);
      hoverCell(grid, from + Math.floor(e.offsetY / (size + 1)) * row + x - shift);
    };
    canvas.onpointermove = canvas.onpointerdown = point;
    $("arrays").append(canvas);
    return grid;
  });
  drawChart();
  draw();
}

function prepare(canvas, width, height) {
  const scale = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
  canvas.width = width * scale, canvas.height = height * scale;
  canvas.style.width = width + "px", canvas.style.height = height + "px";
  pen.scale(scale, scale);
  return pen;
}

const spanOf = (event) => Math.max(1, event.bytes / launch.arrays[event.array].itemsize);

// Of each array {element: [thread, frame, event]}, the last that touched it up to the step.
function touches() {
  const last = launch.arrays.map(() => new Map());
  for (let f = 0; f <= state.step; f++)
    for (const event of frames[f])
      if (event.array !== undefined)
        event.at.forEach((first, i) => {
          for (let k = 0; k < spanOf(event); k++)
            last[event.array].set(first + k, [event.threads[i], f, event]);
        });
  return last;
}

// A lane's colour, paler when it touched the cell before the step shown.
const hue = (thread, pale) =>
  `hsl(${(thread % WARP) * 10.5} 75% ${colour("light")} / ${pale ? 0.3 : 1})`;

function reveal(pane, part) {
  if (part && (part.offsetTop < pane.scrollTop + 24 ||
               part.offsetTop > pane.scrollTop + pane.clientHeight - 48))
    pane.scrollTop = part.offsetTop - pane.clientHeight / 3;
}

function draw() {
  const hues = [0, 1].map((pale) => Array.from({ length: WARP }, (_, lane) => hue(lane, pale)));
  const cell = colour("cell"), last = touches();
  for (const grid of grids.filter(Boolean)) {
    const { pen, from, to, size, sector, row, shift, wide, number } = grid;
    grid.last = last[number];
    pen.clearRect(0, 0, 1e5, 1e5);
    for (let e = from; e < to; e++) {
      const at = e - from + shift, x = at % row, touch = grid.last.get(e);
      pen.fillStyle = touch ? hues[+(touch[1] < state.step)][touch[0] % WARP] : cell;
      pen.fillRect(Math.floor(x / sector) * wide + (x % sector) * size,
                   Math.floor(at / row) * (size + 1), size - (size > 3), size);
    }
  }
  const now = new Set(frames[state.step].flatMap((event) => event.frames)
    .filter(([file]) => file === $("file").value).map(([, line]) => line));
  [...$("source").children].forEach((line, i) => line.classList.toggle("now", now.has(i)));
  reveal($("source"), $("source").children[Math.min(...now)]);
  const touched = frames[state.step].find((event) => event.array !== undefined);
  if (touched) reveal($("arrays"), grids[touched.array].canvas);
  $("slider").value = state.step;
  $("step").textContent = `step ${state.step + 1} of ${frames.length}`;
  $("cursor").style.left = `${state.step * chart.long}px`;
  $("cursor").style.width = `${Math.max(chart.long, 3)}px`;
}

let chart; // how long a frame is and how tall a thread, in pixels
function drawChart() {
  const width = $("threads").clientWidth;
  const tall = Math.max(1, Math.min(8, Math.floor(320 / threads)));
  const long = width / frames.length, pen = prepare($("chart"), width, tall * threads);
  const paint = Object.fromEntries(KINDS.map((kind) => [kind, colour(kind)]));
  for (const kind of KINDS) {
    pen.fillStyle = paint[kind];
    frames.forEach((events, f) => events.forEach((event) => {
      if (event.kind === kind)
        for (const thread of event.threads)
          pen.fillRect(f * long, thread * tall, Math.max(long - (long > 4), 1), tall);
    }));
  }
  const used = new Set(frames.flat().map((event) => event.kind));
  $("legend").replaceChildren(`${threads} threads from top to bottom, steps from left to right:`,
    ...KINDS.filter((kind) => used.has(kind)).map((kind) => {
      const entry = element("span", kind === "path" ? "a new line" : kind), box = element("b", "");
      box.style.background = paint[kind];
      entry.prepend(box);
      return entry;
    }));
  chart = { long, tall };
}

const named = (thread) =>
  `thread ${thread} (warp ${Math.floor(thread / WARP)}, lane ${thread % WARP})`;

function hoverCell(grid, e) {
  if (e < grid.from || e >= grid.to) return;
  const touch = grid.last.get(e);
  $("hover").textContent = `${grid.array.name}[${e}]: ` + (touch
    ? `${named(touch[0])}, ${touch[2].kind} of ${touch[2].bytes} bytes in step ${touch[1] + 1}, ` +
      touch[2].line.join(":")
    : "not touched up to this step");
}

$("chart").onpointermove = $("chart").onpointerdown = (e) => {
  const f = Math.min(frames.length - 1, Math.max(0, Math.floor(e.offsetX / chart.long)));
  const thread = Math.min(threads - 1, Math.max(0, Math.floor(e.offsetY / chart.tall)));
  const did = frames[f].filter((event) => event.threads.includes(thread)).map((event) => {
    const at = event.at[event.threads.indexOf(thread)], array = launch.arrays[event.array];
    return `${event.kind}${array ? ` ${array.name}[${at}]` : ""}, line ${event.line[1]}`;
  });
  $("hover").textContent = `${named(thread)}, step ${f + 1}: ${did.join("; ") || "waits"}`;
  if (e.buttons) go(f);
};

function showFigures() {
  const { lanes, barriers, shuffles, votes, traffic } = launch.figures;
  const each = (rows, say) => rows.map((r) => `${r.array} ${r.kind}: ${say(r)}`).join("\n");
  const global = traffic.filter((r) => !r.shared), shared = traffic.filter((r) => r.shared);
  const rows = [
    ["threads active", `${Math.round(100 * (lanes ?? 0))}%`, "Of a warp's 32 threads, how many " +
      "take part in an access, on the mean. Fewer: paths part, or threads have no work."],
    ["barriers", barriers, "How often a thread waits for its whole block."],
    ["shuffles, votes", `${shuffles}, ${votes}`, "How often a warp's threads exchange values, or " +
      "bits, without memory."],
    ["sectors a request", each(global, (r) => `${r.sectors_per_request} (${r.ideal_per_request})`),
      "Pieces of 32 bytes that an access of a warp touches, and the fewest that would hold what " +
      "it asks for. More than the fewest: neighbouring threads ask for places apart."],
    ["bytes moved", each(global, (r) => `${r.moved} for ${r.needed}`),
      "The bytes of those sectors, for the different bytes that are wanted at all."],
    ["moved again", each(global, (r) => r.again),
      "Bytes of sectors that an earlier access had moved: a cache must serve them, or memory " +
      "does it twice."],
    ["bank conflicts", each(shared, (r) => `${r.conflicts} of ${r.wavefronts}`),
      "Turns of shared memory beyond what the bytes need, of all: threads wanted different words " +
      "of one bank."],
  ];
  $("figures").replaceChildren(...rows.filter((row) => row[1] !== "").map((row) => {
    const tr = element("tr", "");
    tr.append(...row.map((text) => element("td", text)));
    return tr;
  }));
}

function go(step) {
  state.step = Math.max(0, Math.min(frames.length - 1, step));
  draw();
}

function play(on = !timer) {
  clearInterval(timer);
  timer = null;
  $("play").textContent = on ? "Pause" : "Play";
  if (!on) return;
  if (state.step === frames.length - 1) go(0);
  const stride = Math.ceil(frames.length / 300); // all of it in about half a minute
  timer = setInterval(() => {
    go(state.step + stride);
    if (state.step === frames.length - 1) play(false);
  }, 100);
}

function choices(name, titles, changed) {
  $(name).replaceChildren(...titles.map((text, i) => new Option(text, i)));
  $(name).value = state[name];
  $(name).onchange = () => {
    play(false);
    state[name] = +$(name).value, state.step = 0;
    changed?.();
    select();
  };
}

function chooseBlocks() {
  state.block = 0;
  $("file").replaceChildren(); // the kernel's own again
  const { grid } = run().trace.launches[state.launch], count = grid.reduce((a, b) => a * b);
  choices("block", Array.from({ length: count }, (_, i) => `${i + 1} of ${count}`));
}

$("file").onchange = () => {
  showSource();
  draw();
};
$("slider").oninput = () => go(+$("slider").value);
$("back").onclick = () => go(state.step - 1);
$("on").onclick = () => go(state.step + 1);
$("play").onclick = () => play();
$("order").onclick = () => {
  play(false);
  state.order = (state.order + 1) % (1 + versions[state.version].runs.length), state.step = 0;
  select();
};
document.onkeydown = (e) => {
  if (e.target.closest("select, #slider") || e.ctrlKey || e.altKey || e.metaKey) {
    if (e.key !== " " || e.target.id !== "slider") return;
  }
  const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
  if (e.key in moves) go(state.step + moves[e.key] * (e.shiftKey ? 10 : 1));
  else if (e.key === " " && e.target.tagName !== "BUTTON") play();
  else return;
  e.preventDefault();
};
window.onresize = () => frames && layOut();
matchMedia("(prefers-color-scheme: dark)").onchange = () => frames && layOut();

(async () => {
  const packed = Uint8Array.from(atob($("data").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  versions = await new Response(stream).json();
  const { operation, case: text, precision, note, launches } = run().trace;
  $("title").textContent = `${operation}  ${text}  ${precision}`;
  $("note").textContent = note;
  choices("version", versions.map((version) => version.title));
  choices("launch", launches.map((each) => each.kernel), chooseBlocks);
  chooseBlocks();
  select();
})();
