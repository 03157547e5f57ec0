// The page: the skeletons and pictures of one source drawn together on a canvas, and the figures of its run.

import { Feed, isLate } from "./feed.js";
import { drawRegion, Figures, fit, SIDES, STAGES, trackColour } from "./figure.js";
import { CHOICES, DEFAULTS, remember, remembered, TOGGLES } from "./options.js";
import { Plot } from "./plots.js";
import { FULL } from "./stream.js";

const $ = id => document.getElementById(id);
const KEEP_S = 120, KEEP_BYTES = 64 << 20;  // as on the server: two minutes of a crowd would be hundreds of MB
const canvas = $("canvas"), context = canvas.getContext("2d");
const latencyPlot = new Plot($("latency-plot"), [
  { key: "p95", colour: "#4cc9f066", fill: "#4cc9f018" }, { key: "p50", colour: "#4cc9f0" }],
  value => value >= 1000 ? `${value / 1000} s` : `${value} ms`);
const fpsPlot = new Plot($("fps-plot"), [{ key: "fps", colour: "#52d98b", fill: "#52d98b18" }], value => value);

let header = null, figures = null, status = null, paused = false, ended = null;  // ended: the run's end line
let lines = [], kept = 0;   // [pts_s, frame_id, text] for a download when the server is gone, and their bytes
let shown = { record: null, bitmap: null };
let ticks = [], chosen = null, drawing = false;
let presence = new Map();   // track_id: [first, last pts_s] it was seen at, most recently seen last
let feed = null;

const options = { ...DEFAULTS, ...remembered() };

// From the server

function open(source) {
  feed?.close();
  feed = null;
  restart(null);
  ticks = [];
  history.replaceState(null, "", source ? `./?source=${encodeURIComponent(source)}` : "./");  // without a token, too
  feed = new Feed(source, {
    line: take, picture: redraw, status: takeStatus, lost, refused, open: () => notice(), back: () => { ticks = []; },
  });
}

function restart(next) {
  header = next;
  figures = next && new Figures(next);
  presence = new Map();
  lines = [];
  kept = 0;
  chosen = null;
  ended = null;
  if (!next || !paused || !shown.record) shown = { ...shown, record: null, bitmap: next ? shown.bitmap : null };
  else shown.frameId = null;  // not a number of this run
  showFacts();
  notice();
}

function take(record, text) {
  if (record.type === "header") return restart(record);
  if (record.type === "end") {
    ended = record;
    return notice();
  }
  lines.push([record.pts_s, record.frame_id, text]);
  kept += text.length;
  while (kept > KEEP_BYTES || record.pts_s - lines[0][0] > KEEP_S) kept -= lines.shift()[2].length;
  greet(record);
  figures.follow(record, paused && shown.record ? shown.record.pts_s : record.pts_s);
  notice();
  const late = isLate(record, shown);
  if (!late && !paused && !options.picture) {  // otherwise it would reappear under the people of a later frame
    shown.bitmap?.close();
    shown.bitmap = null;
  }
  if (late || (!shown.bitmap && (!paused || !shown.record))) {
    shown.record = record;
    redraw();
  }
}

// Forgets people who have been gone for long, and notes since when each person has been there.
function greet({ pts_s, people }) {
  for (const [id, [, last_s]] of presence) {
    if (pts_s - last_s <= KEEP_S) break;
    presence.delete(id);
  }
  for (const person of people) {
    [person.since_s] = presence.get(person.track_id) ?? [pts_s];
    presence.delete(person.track_id);
    presence.set(person.track_id, [person.since_s, pts_s]);
  }
}

function takeStatus(next) {
  if (String(next.region) !== String(status?.region)) redraw();  // with a still picture nothing else causes a redraw
  const told = status;
  status = next;
  ticks = [...ticks, ...next.ticks].slice(-240);
  const run = current(), select = $("sources");
  select.hidden = $("all").hidden = next.runs.length < 2;
  const names = next.runs.map(({ name }) => name);
  const others = String([...select.options].map(({ value }) => value)) !== String(names);
  if (others) select.replaceChildren(...names.map(name => new Option(name, name)));
  // While the user is choosing another source, only real changes may move the selection.
  if (others || next.run !== told?.run || document.activeElement !== select) select.value = next.run;
  if (next.run === null && names.length) return open(null);  // the chosen one is gone
  if (run) {
    put("fps", run.fps.toFixed(1));
    put("people", run.people);
    for (const q of ["p50", "p95"]) put(q, run.latency_ms[q] === null ? "–" : Math.round(run.latency_ms[q]));
    put("dropped", run.dropped);
    put("exit", run.exit_rate === null ? "" : `${Math.round(100 * run.exit_rate)} % without refinement`);
  }
  if (!paused) {
    latencyPlot.draw(ticks);
    fpsPlot.draw(ticks);
    showStages();
  }
  showFacts();
  notice();
}

function lost() {
  if (!ended) setState("lost", "connection lost");
  notice();
}

function refused(reason) {
  setState("refused", "refused");
  $("notice").textContent = reason;
}

const current = () => status?.runs.find(({ name }) => name === status.run);

// On the screen

function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (feed.waiting && (!paused || !shown.record || !shown.bitmap)) {  // even when paused, show another source's first one
      shown.bitmap?.close();
      shown = feed.taken();
    }
    paint();
    if (!paused && options.picture) feed.ask();
  });
}

function paint() {
  const unit = fit(context, header ? frameSize() : [1, 1]);
  if (!header) return;
  scene(context, unit);
  const record = shown.record;
  canvas.dataset.frameId = record?.frame_id ?? "";
  $("clock").textContent = record ? `${clock(record.pts_s)}  ·  frame ${record.frame_id}` : "";
  showPeople(record);
}

// After reconnecting, a source may have another size than in the header.
const frameSize = () => shown.record?.frame_size_wh ?? header.frame_size_wh;

// Draws picture and people in source pixels.
function scene(target, unit) {
  const [w, h] = frameSize();
  if (options.picture && shown.bitmap) target.drawImage(shown.bitmap, 0, 0, w, h);
  else {
    target.fillStyle = "#0d1218";
    target.fillRect(0, 0, w, h);
  }
  target.save();
  target.translate(0.5, 0.5);  // (0, 0) is the centre of the first pixel
  if (status?.region.length) drawRegion(target, status.region, unit);
  const { record } = shown, there = record?.people.some(person => person.track_id === chosen);
  // If the chosen person has left, nobody is dimmed: that choice could no longer be undone.
  record?.figures.draw(target, record, unit, { ...options, chosen: there ? chosen : null });
  target.restore();
}

function showPeople(record) {
  const list = $("list"), people = [...(record?.people ?? [])].sort((a, b) => a.track_id - b.track_id);
  while (list.children.length > Math.max(1, people.length)) list.lastChild.remove();
  if (!people.length) {
    list.replaceChildren(Object.assign(document.createElement("li"), { className: "none", textContent: "nobody in sight" }));
    return;
  }
  list.querySelector(".none")?.remove();
  people.forEach((person, i) => {
    const row = list.children[i] ?? list.appendChild(newRow());
    const [dot, id, tag, meter, age] = row.children;
    row.dataset.id = person.track_id ?? "";
    row.setAttribute("aria-selected", person.track_id === chosen);
    dot.style.background = trackColour(person.track_id);
    id.textContent = person.track_id ?? "–";
    tag.textContent = person.stage;
    tag.className = `tag ${person.stage}`;
    meter.value = person.quality ?? 0;
    meter.title = person.quality === null ? "quality unknown" : `predicted quality ${person.quality.toFixed(2)}`;
    age.textContent = `${Math.max(0, record.pts_s - person.since_s).toFixed(0)} s`;
  });
}

function newRow() {
  const row = Object.assign(document.createElement("li"), { role: "option", tabIndex: 0 });
  row.innerHTML = '<i class="dot"></i><b></b><span class="tag"></span><meter min="0" max="1"></meter><span class="age"></span>';
  row.onclick = () => {
    const id = Number(row.dataset.id) || null;
    chosen = chosen === id ? null : id;
    redraw();
  };
  row.onkeydown = ({ key }) => key === "Enter" && row.click();
  return row;
}

function showStages() {
  const stages = ticks[ticks.length - 1]?.stages_ms ?? {}, names = Object.keys(stages);
  $("stages").hidden = !names.length;
  $("stages").replaceChildren(...names.map(name => {
    const item = document.createElement("span");
    item.append(`${name} `, Object.assign(document.createElement("b"), { textContent: `${Math.round(stages[name])} ms` }));
    return item;
  }));
}

function showFacts() {
  const run = current(), facts = [];
  const source = header?.source ?? run?.source;
  if (source) {
    put("source", source);
    $("source").title = source;
    document.title = `${source} · sharpose-rt`;
  }
  if (header) {
    facts.push(["model", header.model.name]);
    if (header.model.quality_threshold !== null) facts.push(["refined below", round(header.model.quality_threshold ?? "–")]);
    if (header.model.refine_from_gain !== undefined) facts.push(["refined from a gain of", header.model.refine_from_gain]);
    if (header.model.refine_every !== undefined) facts.push(["refined every", `${header.model.refine_every} frames`]);
    facts.push(["detector", header.detector], ["tracker", header.tracker], ["smoothing", header.smoothing]);
    facts.push(["frame", header.frame_size_wh.join(" × ")]);
  }
  if (run) facts.push(["frames", run.frame_count ? `${run.frames} of ${run.frame_count}` : run.frames], ["identities", run.ids]);
  if (run?.damaged) facts.push(["damaged frames", run.damaged]);
  if (run?.losses) facts.push(["times lost", run.losses]);
  const budget = feed?.newest?.budget;
  if (budget) facts.push(["refined now", `${budget.refined} of ${budget.estimated}`], ["threshold now", round(budget.quality_threshold)]);
  if (budget?.detect_every > 1) facts.push(["detector", `every ${budget.detect_every} frames`]);
  if (status) facts.push(["viewers", status.viewers]);
  for (const { to, state, sent } of status?.publish ?? []) facts.push([to, `${state}, ${sent} sent`]);
  $("facts").replaceChildren(...facts.flatMap(([name, value]) => [
    Object.assign(document.createElement("dt"), { textContent: name }),
    Object.assign(document.createElement("dd"), { textContent: value, title: value })]));
}

function showLegend() {
  const colours = { stage: STAGES, side: SIDES, identity: {} }[options.colour];
  const names = { coarse: "coarse: not refined", fine: "fine: refined", predicted: "predicted: briefly not seen", centre: "middle" };
  const items = Object.entries(colours).map(([name, colour]) => [names[name] ?? name, colour]);
  if (options.colour === "identity") items.push(["a colour for each track id", "linear-gradient(90deg,#f66,#fd6,#6f9,#6cf,#c9f)"]);
  if (options.points === "both") items.push(["raw keypoints", "#ffffffa0"]);
  $("legend").replaceChildren(...items.map(([name, colour]) => {
    const item = document.createElement("span"), mark = document.createElement("i");
    mark.style.background = colour;
    item.append(mark, name);
    return item;
  }));
}

function notice() {
  if (document.body.dataset.state === "refused") return;
  const run = current(), open = feed?.connected, newest = feed?.newest;
  let text = "";
  if (ended) setState("ended", "ended");
  else if (feed?.full) setState("lost", FULL);
  else if (!open) setState("lost", header ? "connection lost" : "connecting");
  else if (paused) setState("paused", "paused");
  else if (run?.state === "lost") setState("stalled", "source lost, reconnecting");
  else if (run?.state === "waiting") setState("waiting", "waiting for the source");
  else if (!newest) setState("waiting", "starting");
  else if (run?.state === "stalled") setState("stalled", "no frames");
  else setState("live", run && !run.live ? "file" : "live");
  if (feed?.full) text = "Too many viewers: waiting until one leaves.";
  else if (!header && !open) text = "Connecting…";
  else if (!newest && /waiting|lost/.test(run?.state)) text = "Waiting for this source, which is not available yet.";
  else if (!newest && !ended) text = "Waiting for the first frame: models are loading.";
  $("notice").textContent = text;
}

function setState(state, text) {
  document.body.dataset.state = state;
  put("state", text);
}

const put = (id, value) => { if ($(id).textContent !== String(value)) $(id).textContent = value; };
const round = value => typeof value === "number" ? value.toFixed(2) : value;  // infinity is a string
const clock = s => `${Math.floor(s / 60)}:${(s % 60).toFixed(2).padStart(5, "0")}`;

// What the user does

function pause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  $("pause-text").textContent = paused ? "Resume" : "Pause";
  if (!paused) shown.record = feed.waiting ? shown.record : feed.newest;
  notice();
  redraw();
}

function snapshot() {
  if (!header || !shown.record) return;
  const [w, h] = frameSize(), copy = new OffscreenCanvas(w, h);
  scene(copy.getContext("2d"), Math.max(1, Math.sqrt(w * h) / 720));
  copy.convertToBlob({ type: "image/png" })
    .then(blob => save(blob, `${fileStem()}.${String(shown.record.frame_id).padStart(6, "0")}.png`));
}

async function download() {
  const seconds = Number($("seconds").value), name = `${fileStem()}.last${seconds}s.skeletons.jsonl`;
  const query = new URLSearchParams({ seconds, ...(status?.run && { source: status.run }) });
  try {
    const answer = await fetch(`api/recent?${query}`);
    if (!answer.ok) throw new Error(await answer.text());
    save(await answer.blob(), name);
  } catch {
    save(new Blob(ownLines(seconds), { type: "application/x-ndjson" }), name);  // the server is gone: use what came here
  }
}

// The last seconds that this page has received, as a valid stream.
function ownLines(seconds) {
  if (!lines.length) return [];
  const [last_s] = lines[lines.length - 1], part = lines.filter(([pts_s]) => pts_s >= last_s - seconds);
  let last = -1, dropped = 0;
  const texts = part.map(([, id, text]) => {
    const missing = id - last - 1;
    last = id;
    dropped += missing;
    return JSON.stringify({ ...JSON.parse(text), dropped_before: missing }) + "\n";
  });
  const end = { type: "end", frames: texts.length, dropped, status: ended?.status ?? "interrupted" };
  return [JSON.stringify(header) + "\n", ...texts, JSON.stringify(end) + "\n"];
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const fileStem = () => (status?.run ?? "sharpose").replace(/[^\w.-]+/g, "_");

function choose(name, value) {
  options[name] = value;
  remember(options);
  applyOptions();
}

function applyOptions() {
  for (const name of TOGGLES) $(name).checked = options[name];
  for (const name of Object.keys(CHOICES)) document.querySelector(`input[name=${name}][value=${options[name]}]`).checked = true;
  showLegend();
  redraw();
}

const next = name => choose(name, CHOICES[name][(CHOICES[name].indexOf(options[name]) + 1) % CHOICES[name].length]);
const keys = {
  " ": pause, s: snapshot, d: download, f: full, r: () => next("points"), c: () => next("colour"),
  ...Object.fromEntries(TOGGLES.map(name => [name[0], () => choose(name, !options[name])])),
};

function full() {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("screen").requestFullscreen();
}

$("pause").onclick = pause;
$("snapshot").onclick = snapshot;
$("download").onclick = download;
$("full").onclick = full;
$("sources").onchange = ({ target }) => open(target.value);
for (const name of TOGGLES) $(name).onchange = ({ target }) => choose(name, target.checked);
for (const input of document.querySelectorAll("input[type=radio]")) input.onchange = () => choose(input.name, input.value);
addEventListener("keydown", event => {
  const { tagName } = event.target;  // a clicked button keeps the focus
  if (event.ctrlKey || event.metaKey || event.altKey || tagName === "SELECT") return;
  if (event.key === " " && /BUTTON|INPUT/.test(tagName)) return;
  const act = keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
new ResizeObserver(redraw).observe(canvas);
open(new URLSearchParams(location.search).get("source"));
applyOptions();
