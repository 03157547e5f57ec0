// Draws people on a canvas: skeletons, boxes, ids and trails, in pixels of the source frame.

export const STAGES = { coarse: "#4cc9f0", fine: "#ffb84d", predicted: "#a9b4c2" };
export const SIDES = { left: "#28aaff", right: "#ff8c1e", centre: "#e1ebe1" };
const MIN_SCORE = 0.3, OUTLINE = "#0b0f14d0", REGION = "#bebebe", TRAIL_S = 2;
const LARGEST = 1e6;  // times larger or smaller, at which numbers still resolve a thousandth of a pixel

// The same colours as in the annotated video: the golden ratio spreads the hues.
export function trackColour(id) {
  if (!id) return "#bebebe";
  return `hsl(${Math.round(id * 0.618033988749895 % 1 * 360)} 100% ${id % 2 ? 63 : 72}%)`;
}

// Draws a closed line around `corners`, inside which people are looked for.
export function drawRegion(context, corners, unit) {
  context.lineJoin = "round";
  context.beginPath();
  for (const [x, y] of corners) context.lineTo(x, y);
  context.closePath();
  for (const [colour, width] of [[OUTLINE, 4], [REGION, 1.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = width * unit;
    context.stroke();
  }
}

// Like `skeleton.side_of`: by a word or letter in the name.
const SIDE_OF = new Map([["left", "left"], ["l", "left"], ["right", "right"], ["r", "right"]]);
const side = name =>
  (name.match(/[A-Z]?[a-z]+|[A-Z]+(?![a-z])/g) ?? []).map(word => SIDE_OF.get(word.toLowerCase())).find(Boolean) ?? "centre";

// Keypoints of faces and hands are close together: thin lines without dots.
const SMALL = /^face_|_hand_root$|_(thumb|forefinger|middle_finger|ring_finger|pinky_finger)\d$/;

// The two neighbours between which a joint's angle is measured.
const ENDS = {
  shoulder: ["elbow", "hip"], elbow: ["shoulder", "wrist"], hip: ["shoulder", "knee"], knee: ["hip", "ankle"],
  ankle: ["knee", "big_toe"],
};

// Affine maps [[a, b, c], [d, e, f]]: (x, y) to (ax + by + c, dx + ey + f).
const STILL = [[1, 0, 0], [0, 1, 0]];
const zoom = ([[a, b], [d, e]]) => Math.sqrt(Math.abs(a * e - b * d));
const moved = ([[a, b, c], [d, e, f]], x, y) => [a * x + b * y + c, d * x + e * y + f];

function chained(first, [[a, b, c], [d, e, f]]) {
  const [one, two] = first;
  return [one.map((v, i) => a * v + b * two[i] + (i === 2 ? c : 0)), one.map((v, i) => d * v + e * two[i] + (i === 2 ? f : 0))];
}

function inverse([[a, b, c], [d, e, f]]) {
  const det = a * e - b * d;
  return [[e / det, -b / det, (b * f - c * e) / det], [-d / det, a / det, (c * d - a * f) / det]];
}

// Clears a canvas and scales it to draw in pixels of a picture of that size, as large as fits; returns a screen pixel's
// size in these (`unit`).
export function fit(context, [w, h]) {
  const { canvas } = context, ratio = devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  const scale = Math.min(width / w, height / h);
  context.setTransform(scale, 0, 0, scale, (width - w * scale) / 2, (height - h * scale) / 2);
  return ratio / scale;
}

export class Figures {
  constructor(header) {
    this.size = header.frame_size_wh;
    this.limbs = header.limbs;
    this.sides = header.keypoints.map(side);
    this.small = header.keypoints.map(name => SMALL.test(name));
    this.torso = header.keypoints.flatMap((name, k) => /shoulder|hip|thorax|pelvis/.test(name) ? [k] : []);
    const triples = Object.entries(ENDS).flatMap(([joint, [first, last]]) =>
      ["left", "right"].map(which => [first, joint, last].map(part => header.keypoints.indexOf(`${which}_${part}`))));
    this.joints = triples.filter(places => !places.includes(-1));
    this.trails = new Map();  // track_id: [pts_s, x, y] oldest first, in the picture with which `part` began
    this.place = STILL;  // maps a point of that picture to now, as the camera moves
    this.part = 0;
  }

  // Adds a frame to the trails, whether shown or not; trails are kept for the frame at `shown_s` and for the newest. A
  // paused page may show a record after its run has ended, so the record refers to its own figures.
  follow(record, shown_s) {
    record.figures = this;
    record.frame_size_wh ??= this.size;
    if (record.new_scene) this.trails.clear();
    if (record.camera) this.place = chained(this.place, record.camera);
    if (!(Math.abs(Math.log(zoom(this.place))) < Math.log(LARGEST))) this.beginPart();
    Object.assign(record, { place: this.place, part: this.part });
    const back = inverse(this.place);
    for (const person of record.people) {
      const seen = this.torso.map(k => person.keypoints[k]).filter(point => point[2] >= MIN_SCORE);
      if (!person.track_id || 2 * seen.length <= this.torso.length) continue;
      const middle = axis => seen.reduce((sum, point) => sum + point[axis], 0) / seen.length;
      if (!this.trails.has(person.track_id)) this.trails.set(person.track_id, []);
      this.trails.get(person.track_id).push([record.pts_s, ...moved(back, middle(0), middle(1))]);
    }
    const kept = ([t]) => t <= record.pts_s && (t <= shown_s ? shown_s : record.pts_s) - t <= TRAIL_S;
    for (const [id, trail] of this.trails) {
      const left = trail.filter(kept);
      if (left.length) this.trails.set(id, left);
      else this.trails.delete(id);
    }
  }

  // Continues the trails from where they are now, before the numbers of a camera that keeps moving grow too large.
  beginPart() {
    for (const [id, trail] of this.trails) {
      this.trails.set(id, trail.map(([pts_s, x, y]) => [pts_s, ...moved(this.place, x, y)]));
    }
    this.place = STILL;
    this.part += 1;
  }

  // `unit`: source pixels per screen pixel, so that lines keep their width.
  draw(context, record, unit, options) {
    context.lineCap = context.lineJoin = "round";
    if (options.trails) this.drawTrails(context, record, unit, options);
    const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
    const last = person => options.chosen !== null && person.track_id === options.chosen;
    const people = [...record.people].sort((a, b) => last(a) - last(b) || area(a.bbox_xyxy) - area(b.bbox_xyxy));
    for (const person of people) {
      context.globalAlpha = options.chosen && person.track_id !== options.chosen ? 0.25 : 1;
      if (options.boxes) this.drawBox(context, person, unit, options);
      if (options.points !== "smooth") this.drawSkeleton(context, person, person.raw_keypoints, unit, options, options.points === "both");
      if (options.points !== "raw") this.drawSkeleton(context, person, person.keypoints, unit, options, false);
    }
    for (const person of options.angles ? people : []) {
      context.globalAlpha = options.chosen && person.track_id !== options.chosen ? 0.25 : 1;
      this.drawAngles(context, options.points === "raw" ? person.raw_keypoints : person.keypoints, unit);
    }
    for (const person of options.ids ? people : []) {
      context.globalAlpha = options.chosen && person.track_id !== options.chosen ? 0.25 : 1;
      if (person.track_id) this.drawLabel(context, person, unit, options);
    }
    context.globalAlpha = 1;
  }

  colour(person, options, part = "centre") {
    if (options.colour === "side") return SIDES[part];
    return options.colour === "stage" ? STAGES[person.stage] : trackColour(person.track_id);
  }

  drawSkeleton(context, person, points, unit, options, ghost) {
    const size = Math.max(person.bbox_xyxy[2] - person.bbox_xyxy[0], person.bbox_xyxy[3] - person.bbox_xyxy[1]) / unit;
    const width = Math.min(4.5, Math.max(1.5, 2.6 * Math.sqrt(size / 250))) * unit;
    const seen = point => point[2] >= MIN_SCORE;
    const limbs = this.limbs.filter(([a, b]) => seen(points[a]) && seen(points[b]));
    context.setLineDash(person.stage === "predicted" && !ghost ? [3 * width, 2 * width] : []);
    for (const outline of ghost ? [false] : [true, false]) {
      for (const [a, b] of limbs) {
        const small = this.small[a] && this.small[b];
        if (small && outline) continue;
        const parts = [this.sides[a], this.sides[b]].filter(part => part !== "centre");
        const part = parts.length && parts.every(p => p === parts[0]) ? parts[0] : "centre";
        context.strokeStyle = ghost ? "#ffffffa0" : outline ? OUTLINE : this.colour(person, options, part);
        context.lineWidth = ghost ? Math.max(unit, width / 3) : outline ? width + 2 * unit : small ? width / 2 : width;
        context.beginPath();
        context.moveTo(points[a][0], points[a][1]);
        context.lineTo(points[b][0], points[b][1]);
        context.stroke();
      }
    }
    context.setLineDash([]);
    if (ghost) return;
    points.forEach((point, k) => {
      if (!seen(point) || this.small[k]) return;
      context.beginPath();
      context.arc(point[0], point[1], 0.95 * width, 0, 7);
      context.fillStyle = "#fff";
      context.strokeStyle = this.colour(person, options, this.sides[k]);
      context.lineWidth = 0.7 * width;
      context.stroke();
      context.fill();
    });
  }

  drawBox(context, person, unit, options) {
    const [x1, y1, x2, y2] = person.bbox_xyxy;
    context.strokeStyle = this.colour(person, { ...options, colour: options.colour === "side" ? "identity" : options.colour });
    context.lineWidth = 1.3 * unit;
    context.globalAlpha *= 0.55;
    context.setLineDash(person.stage === "predicted" ? [6 * unit, 4 * unit] : []);
    context.beginPath();
    context.roundRect(x1, y1, x2 - x1, y2 - y1, 4 * unit);
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha /= 0.55;
  }

  drawLabel(context, person, unit, options) {
    const [x1, y1, x2] = person.bbox_xyxy, text = String(person.track_id);
    context.font = `600 ${12 * unit}px system-ui, sans-serif`;
    const width = context.measureText(text).width + 20 * unit, height = 18 * unit;
    const left = (x1 + x2 - width) / 2, top = Math.max(0, y1 - height - 3 * unit);
    context.fillStyle = "#0b0f14d8";
    context.beginPath();
    context.roundRect(left, top, width, height, 5 * unit);
    context.fill();
    context.fillStyle = options.colour === "stage" ? STAGES[person.stage] : trackColour(person.track_id);
    context.beginPath();
    context.arc(left + 8 * unit, top + height / 2, 3.2 * unit, 0, 7);
    context.fill();
    context.fillStyle = "#fff";
    context.textBaseline = "middle";
    context.fillText(text, left + 15 * unit, top + height / 2 + 0.5 * unit);
  }

  // Angles at the joints in degrees, 180 for a straight limb.
  drawAngles(context, points, unit) {
    context.font = `600 ${11 * unit}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    context.lineWidth = 3 * unit;
    context.strokeStyle = OUTLINE;
    context.fillStyle = "#fff";
    for (const [first, joint, last] of this.joints) {
      if ([first, joint, last].some(k => !(points[k][2] >= MIN_SCORE))) continue;
      const [x, y] = points[joint], [ax, ay] = [points[first][0] - x, points[first][1] - y];
      const [bx, by] = [points[last][0] - x, points[last][1] - y];
      const text = `${Math.round(Math.abs(Math.atan2(ax * by - ay * bx, ax * bx + ay * by)) * 180 / Math.PI)}°`;
      const outward = this.sides[joint] === "right" ? -1 : 1;  // for a person facing the camera
      context.textAlign = outward < 0 ? "right" : "left";
      context.strokeText(text, x + 9 * unit * outward, y);
      context.fillText(text, x + 9 * unit * outward, y);
    }
    context.textAlign = "left";
  }

  drawTrails(context, record, unit, options) {
    if (record.part !== this.part) return;  // of an earlier part: the trails' places in it are no longer known
    for (const [id, trail] of this.trails) {
      const part = trail.filter(([pts_s]) => pts_s <= record.pts_s)
        .map(([pts_s, x, y]) => [pts_s, ...moved(record.place, x, y)]);
      context.strokeStyle = trackColour(id);
      context.lineWidth = 2.2 * unit;
      for (let i = 1; i < part.length; i++) {
        const dim = options.chosen && id !== options.chosen ? 0.2 : 0.9;
        context.globalAlpha = dim * Math.max(0, 1 - (record.pts_s - part[i][0]) / TRAIL_S);
        context.beginPath();
        context.moveTo(part[i - 1][1], part[i - 1][2]);
        context.lineTo(part[i][1], part[i][2]);
        context.stroke();
      }
    }
    context.globalAlpha = 1;
  }
}
