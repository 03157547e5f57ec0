// A WebSocket that comes back by itself, with pauses that grow, unless the server refused it.

export const REFUSED = new Map([[4401, "a token is wanted: open this page with ?token=…"], [4403, "refused by the server"]]);
export const FULL = "too many viewers";
const TRY_LATER = 1013;
const FIRST_PAUSE_MS = 500, LONGEST_PAUSE_MS = 8000, OPEN_MS = 10_000;

export class Stream {
  // `handlers`: open(), heard(), text(object), bytes(ArrayBuffer), lost(), refused(reason)
  constructor(path, handlers) {
    this.path = path;
    this.handlers = handlers;
    this.pause = FIRST_PAUSE_MS;
    this.closed = false;
    this.full = false;  // the server has no place, and lets go whoever it has let in
    this.connect();
  }

  connect() {
    const address = new URL(this.path, location);  // relative, as all here: a proxy may show this below a path of its own
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = this.socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    this.timer = setTimeout(() => socket.close(), OPEN_MS);  // nobody answers, not even that it is closed
    socket.onopen = () => {
      clearTimeout(this.timer);
      this.handlers.open?.();
    };
    socket.onmessage = ({ data }) => {
      this.handlers.heard?.();
      this.pause = FIRST_PAUSE_MS;
      this.full = false;
      if (typeof data === "string") this.handlers.text?.(JSON.parse(data), data);
      else this.handlers.bytes?.(data);
    };
    socket.onclose = ({ code }) => {
      this.full = code === TRY_LATER;
      if (REFUSED.has(code)) this.handlers.refused?.(REFUSED.get(code));
      else this.again();
    };
  }

  again() {
    clearTimeout(this.timer);
    if (this.closed) return;
    this.handlers.lost?.();
    this.timer = setTimeout(() => this.connect(), this.pause * (0.7 + 0.3 * Math.random()));
    this.pause = Math.min(2 * this.pause, LONGEST_PAUSE_MS);
  }

  // Gives up a connection over which nothing comes: its end would be told in minutes, where the other side is gone.
  drop() {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.onclose = this.socket.onmessage = null;
    this.socket.close();
    this.again();
  }

  send(text) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(text);
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket.onclose = null;
    this.socket.close();
  }
}
