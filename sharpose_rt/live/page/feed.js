// One source: its skeletons and pictures, which arrive separately and are matched by frame number.

import { Stream } from "./stream.js";

const KEPT = 400;  // records, to find the one that belongs to a picture
export const QUIET_S = 6;  // of silence, although a status is sent twice a second: the other side is gone

// Whether this record belongs to the picture already shown; the last picture of a run would otherwise stay without people.
export const isLate = (record, shown) => Boolean(shown.bitmap) && record.frame_id === shown.frameId;

export class Feed {
  // `handlers`: line(record, text), picture(), status(object), open(), back(), lost(), refused(reason).
  constructor(source, handlers, { small = false } = {}) {
    const named = source ? { source } : {}, path = (name, of) => `${name}?${new URLSearchParams(of)}`;
    const { status, lost, refused, open } = handlers;
    this.handlers = handlers;
    this.records = new Map();  // frame_id: record
    this.newest = null;
    this.waiting = null;  // the newest picture that has not been taken
    this.arrived = this.decoded = 0;  // pictures, counted in order of arrival
    this.owed = 0;  // pictures that arrived and have not been followed by a request for another
    this.closed = false;
    this.quiet = 0;  // seconds of silence, not counting those of a sleeping tab
    this.watch = setInterval(() => this.listen(), 1000);
    const heard = () => { this.quiet = 0; };  // from either: on a slow line a picture delays the figures behind it
    this.skeletons = new Stream(path("skeletons", named), { heard, text: (...line) => this.take(...line), lost, refused, open });
    this.view = new Stream(path("view", small ? { ...named, small: 1 } : named), {
      heard, text: status, bytes: buffer => this.decode(buffer), refused,
      open: () => {
        this.owed = 0;
        handlers.back?.();
      },
    });
  }

  get connected() {
    return this.skeletons.socket.readyState === WebSocket.OPEN;
  }

  get full() {
    return this.skeletons.full || this.view.full;
  }

  take(record, text) {
    if (record.type === "header") {
      this.records.clear();
      this.newest = null;
    } else if (record.type === "frame") {
      this.newest = record;
      this.records.set(record.frame_id, record);
      if (this.records.size > KEPT) this.records.delete(this.records.keys().next().value);
    }
    this.handlers.line(record, text);
  }

  async decode(buffer) {
    const head = new DataView(buffer), frameId = head.getUint32(0), number = ++this.arrived;
    try {
      const bitmap = await createImageBitmap(new Blob([new Uint8Array(buffer, 12)], { type: "image/jpeg" }));
      // Decoding takes a while: by now there may be a newer picture, or another source.
      if (this.closed || number < this.decoded) return bitmap.close();
      this.decoded = number;
      this.waiting?.bitmap.close();
      this.waiting = { bitmap, frameId };
    } finally {
      if (!this.closed) {
        this.owed += 1;
        this.handlers.picture();
      }
    }
  }

  // The newest picture, which then belongs to the caller, and its record; if that was skipped, the last one before it.
  taken() {
    const { bitmap, frameId } = this.waiting;
    this.waiting = null;
    let record = this.records.get(frameId);
    if (!record) for (const [id, earlier] of this.records) if (id <= frameId) record = earlier;
    return { bitmap, frameId, record: record ?? this.newest };
  }

  // Requests as many pictures as were drawn, so a hidden or frozen page requests none.
  ask() {
    for (; this.owed > 0; this.owed--) this.view.send("next");
  }

  listen() {
    if (++this.quiet < QUIET_S) return;
    this.quiet = 0;
    this.skeletons.drop();
    this.view.drop();
  }

  close() {
    this.closed = true;
    clearInterval(this.watch);
    this.skeletons.close();
    this.view.close();
    this.waiting?.bitmap.close();
    this.waiting = null;
  }
}
