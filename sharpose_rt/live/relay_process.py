"""A separate program that reads H.264 from standard input and passes it on to a video server.

PyAV holds Python's global lock while it connects, and this cannot be interrupted. Here it blocks nobody: the run kills
this process if it hangs. The first line of input is JSON (`url`, `format`, `options`); NUT follows. It prints
`connected`, or why it ended, on standard output.

Streaming services (FLV, over RTMP) show no video without sound, so silence is added.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
from typing import Any

import av
import av.error
import numpy as np

_SOUND_HZ, _SOUND_SAMPLES = 44_100, 1024
"""A rate that FLV accepts, and the samples in one AAC packet."""
_AHEAD_SAMPLES = 3 * _SOUND_SAMPLES  # the muxer holds a picture until later sound comes, and the encoder delays some


class _Silence:
    """A silent AAC stream as long as the pictures."""

    def __init__(self, out: Any) -> None:
        self._out, self._stream = out, out.add_stream("aac", rate=_SOUND_HZ, layout="stereo")
        self._stream.bit_rate = 32_000
        self._next = _SOUND_SAMPLES  # the encoder's packets are earlier by this much

    def go_on(self, until_s: float) -> None:
        """Writes the missing silence up to the time of a picture, s."""
        while self._next <= until_s * _SOUND_HZ + _AHEAD_SAMPLES:
            frame = av.AudioFrame.from_ndarray(np.zeros((2, _SOUND_SAMPLES), np.float32), "fltp", "stereo")
            frame.sample_rate, frame.pts, self._next = _SOUND_HZ, self._next, self._next + _SOUND_SAMPLES
            self._out.mux(self._stream.encode(frame))


def main() -> int:
    """0 if the whole stream was passed on, else 1."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the run, which ends this stream
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
            silence = _Silence(out) if job["format"] == "flv" else None
            out.start_encoding()
            print("connected", flush=True)
            for packet in source.demux(video=0):
                if packet.size:
                    if silence is not None:
                        silence.go_on(float(packet.pts * packet.time_base))
                    packet.stream, packet.dts = stream, packet.pts  # no B-frames; the demuxer starts guessing dts late
                    out.mux(packet)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        if getattr(error, "errno", None) == errno.EIO:  # FFmpeg reports both like this
            why = f"{why}: there is no such host, or it hung up, as servers do when they refuse a path or a key"
        print(why, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
