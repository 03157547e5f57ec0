"""A program of its own: takes H.264 from standard input and hands it on to a video server.

PyAV holds Python's lock while it connects to one, and has no way to end that. Here it holds up nobody: the run ends
this process where it hangs. The first line is JSON: `url`, `format`, `options`; NUT follows. It says `connected`, or
why it ended, on standard output.

Streaming services (FLV, by RTMP) show no video that has no sound, so that silence goes with it.
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
"""What FLV takes, and the samples in one of AAC's packets."""
_AHEAD_SAMPLES = 3 * _SOUND_SAMPLES  # a picture waits in the muxer for sound behind it, and the encoder keeps some


class _Silence:
    """A stream of AAC in which nothing is heard, as far as the pictures go."""

    def __init__(self, out: Any) -> None:
        self._out, self._stream = out, out.add_stream("aac", rate=_SOUND_HZ, layout="stereo")
        self._stream.bit_rate = 32_000
        self._next = _SOUND_SAMPLES  # the encoder's packets are so much earlier

    def go_on(self, until_s: float) -> None:
        """Writes what is missing up to a time of the pictures, s."""
        while self._next <= until_s * _SOUND_HZ + _AHEAD_SAMPLES:
            frame = av.AudioFrame.from_ndarray(np.zeros((2, _SOUND_SAMPLES), np.float32), "fltp", "stereo")
            frame.sample_rate, frame.pts, self._next = _SOUND_HZ, self._next, self._next + _SOUND_SAMPLES
            self._out.mux(self._stream.encode(frame))


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
            silence = _Silence(out) if job["format"] == "flv" else None
            out.start_encoding()
            print("connected", flush=True)
            for packet in source.demux(video=0):
                if packet.size:
                    if silence is not None:
                        silence.go_on(float(packet.pts * packet.time_base))
                    packet.stream, packet.dts = stream, packet.pts  # without B-frames; the demuxer begins to guess late
                    out.mux(packet)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        if getattr(error, "errno", None) == errno.EIO:  # FFmpeg's word for either
            why = f"{why}: there is no host of that name, or it hung up, as servers do that refuse a path or a key"
        print(why, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
