// All sources side by side, live, with the drawing options chosen on the page; a click opens one.

import { Feed, isLate, QUIET_S } from "./feed.js";
import { drawRegion, Figures, fit } from "./figure.js";
import { DEFAULTS, remembered } from "./options.js";
import { FULL, REFUSED } from "./stream.js";

const ASK_MS = 1000;
const WORDS = { waiting: "waiting for the source", lost: "source lost, reconnecting", stalled: "no frames" };
const wall = document.getElementById("wall"), state = document.getElementById("state");
const tiles = new Map();  // by source name
const chosen = () => ({ ...DEFAULTS, colour: "identity", ...remembered(), chosen: null });
let region = [], options = chosen();

class Tile {
  constructor(name) {
    this.header = this.figures = null;
    this.shown = { record: null, bitmap: null };
    this.drawing = false;
    this.link = Object.assign(document.createElement("a"), { className: "tile", href: `./?source=${encodeURIComponent(name)}` });
    this.link.dataset.name = name;
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d");
    this.caption = document.createElement("span");
    this.title = Object.assign(document.createElement("b"), { textContent: name });
    this.figure = document.createElement("span");
    this.caption.append(this.title, this.figure);
    this.link.append(this.canvas, this.caption);
    this.size = new ResizeObserver(() => this.redraw());
    this.size.observe(this.canvas);
    const handlers = { line: record => this.take(record), picture: () => this.redraw() };
    this.feed = new Feed(name, handlers, { small: true });
  }

  take(record) {
    if (record.type === "header") {
      this.header = record;
      this.figures = new Figures(record);
      this.shown.record = null;
    } else if (record.type === "frame") {
      this.figures.follow(record, record.pts_s);
      if (this.shown.bitmap && !isLate(record, this.shown)) return;  // drawn with the next picture
      this.shown.record = record;
    }
    this.redraw();
  }

  tell(run) {
    this.link.dataset.state = run.state;
    const parts = [`${run.people} ${run.people === 1 ? "person" : "people"}`, `${run.fps.toFixed(1)} fps`];
    if (run.latency_ms.p95 !== null) parts.push(`p95 ${Math.round(run.latency_ms.p95)} ms`);
    this.figure.textContent = this.feed.full ? FULL : WORDS[run.state] ?? (run.state === "ended" ? "ended" : parts.join(" · "));
  }

  redraw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      if (this.feed.waiting) {
        this.shown.bitmap?.close();
        this.shown = this.feed.taken();
      }
      this.paint();
      this.feed.ask();
    });
  }

  paint() {
    const { canvas, context, shown } = this;
    const [w, h] = shown.record?.frame_size_wh ?? this.header?.frame_size_wh ?? [1, 1], unit = fit(context, [w, h]);
    if (!this.header) return;
    if (shown.bitmap && options.picture) context.drawImage(shown.bitmap, 0, 0, w, h);
    context.translate(0.5, 0.5);  // (0, 0) is the centre of the first pixel
    if (region.length) drawRegion(context, region, unit);
    shown.record?.figures.draw(context, shown.record, unit, options);
    canvas.dataset.frameId = shown.record?.frame_id ?? "";
  }

  close() {
    this.size.disconnect();
    this.feed.close();
    this.link.remove();
  }
}

function show({ runs, region: corners }) {
  region = corners;
  const names = new Set(runs.map(({ name }) => name));
  for (const [name, tile] of tiles) {
    if (names.has(name)) continue;
    tile.close();
    tiles.delete(name);
  }
  for (const run of runs) {
    if (!tiles.has(run.name)) {
      const tile = new Tile(run.name);
      tiles.set(run.name, tile);
      wall.append(tile.link);
    }
    tiles.get(run.name).tell(run);
  }
  wall.style.setProperty("--columns", Math.ceil(Math.sqrt(runs.length || 1)));
  const away = runs.filter(run => run.state === "lost" || run.state === "stalled").length;
  say(away ? "stalled" : runs.length ? "live" : "waiting", away ? `${away} of ${runs.length} without pictures` : runs.length === 1 ? "1 source" : `${runs.length} sources`);
}

function say(kind, text) {
  document.body.dataset.state = kind;
  state.textContent = text;
}

async function ask() {
  try {
    const answer = await fetch("api/status", { signal: AbortSignal.timeout(1000 * QUIET_S) });
    const reason = REFUSED.get(4000 + answer.status);  // a refused source does not reconnect: its tile is made anew later
    show(reason ? { runs: [], region: [] } : await answer.json());
    if (reason) say("refused", reason);
  } catch {
    say("lost", "connection lost");
  }
  setTimeout(ask, ASK_MS);
}

addEventListener("storage", () => {  // chosen in another window
  options = chosen();
  for (const tile of tiles.values()) tile.redraw();
});
ask();
