// A WebSocket that reconnects automatically, after growing pauses, unless the server refused it.

export const REFUSED = new Map([[4401, "a token is needed: open this page with ?token=…"], [4403, "refused by the server"]]);
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
    this.full = false;  // the server accepts no more viewers and has closed this connection
    this.connect();
  }

  connect() {
    const address = new URL(this.path, location);  // relative, like all addresses here: a proxy may serve this below a path
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = this.socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    this.timer = setTimeout(() => socket.close(), OPEN_MS);  // no answer, not even that the port is closed
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

  // Abandons a silent connection: if the other side is gone, the browser would take minutes to notice.
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
