"""A program of its own: takes H.264 from standard input and hands it on to a video server.

PyAV holds Python's lock while it connects to one, and has no way to end that. Here it holds up nobody: the run ends
this process where it hangs. The first line is JSON: `url`, `format`, `options`; NUT follows. It says `connected`, or
why it ended, on standard output.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import av
import av.error


def main() -> int:
    """0 where the stream was handed on to its end, else 1."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the run, and that the stream
    pipe: Any = sys.stdin.buffer.raw  # type: ignore[attr-defined]  # a buffer would wait until it is full
    line = bytearray()
    while (byte := pipe.read(1)) not in (b"\n", b""):
        line += byte
    job = json.loads(line)
    eager = {"probesize": "32", "analyzeduration": "0"}
    try:
        source: Any = av.open(pipe, format="nut", options=eager)
        with source, av.open(job["url"], "w", format=job["format"], options=job["options"]) as out:
            stream = out.add_stream_from_template(source.streams.video[0])
            out.start_encoding()
            print("connected", flush=True)
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream, packet.dts = stream, packet.pts  # without B-frames; the demuxer begins to guess late
                    out.mux(packet)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        print(getattr(error, "strerror", None) or error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
