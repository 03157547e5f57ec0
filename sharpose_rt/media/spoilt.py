"""Finds pictures of a stream that were spoilt by lost packets."""

from __future__ import annotations

from collections import deque
from typing import Any

from sharpose_rt.media.backlog import LONGEST_WAIT_S


class Spoilt:
    """Decides which pictures to leave out, by FFmpeg's marks.

    A picture in which the decoder concealed a lost packet is unusable. Those after it are good enough (measured with
    H.264: poses are off by 0.5 % of the height of large people, by 2 to 4 % in a crowd), unless it was a key frame,
    which is concealed without any reference, or FFmpeg does not conceal losses in the codec. Then all pictures up to
    the next key frame are spoilt, but for `LONGEST_WAIT_S` at most: some streams have no key frames, and refresh their
    pictures bit by bit.

    Args:
        fps: of the stream.
        conceals: the decoder conceals losses within a picture, and marks them.
        by_packets: use the demuxer's marks of gaps, which the parser's delay puts on the packet before. Only if gaps
            are losses in the network, and not joins of recordings.
    """

    def __init__(self, fps: float, *, conceals: bool, by_packets: bool) -> None:
        self._longest, self._conceals, self._by_packets = round(LONGEST_WAIT_S * fps), conceals, by_packets
        self._whole, self._in_a_row = True, 0
        self._next_is_damaged = False
        self._damaged_pts: deque[int | None] = deque(maxlen=32)  # of packets whose pictures will follow

    def take(self, packet: Any) -> None:
        """Records a packet that is about to be decoded."""
        if self._next_is_damaged:
            self._damaged_pts.append(packet.pts)
        self._next_is_damaged = self._by_packets and packet.is_corrupt

    def __call__(self, frame: Any) -> bool:
        """Whether to leave out a decoded picture, the next one in display order."""
        marked = frame.is_corrupt
        if frame.pts in self._damaged_pts:
            self._damaged_pts.remove(frame.pts)
            marked = True
        if frame.key_frame or (marked and not self._conceals):
            self._whole = not marked
        spoilt = marked or not self._whole
        self._in_a_row = self._in_a_row + 1 if spoilt else 0
        if self._in_a_row > self._longest:
            self._whole, spoilt = True, False
        return spoilt
