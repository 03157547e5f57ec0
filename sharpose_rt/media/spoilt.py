"""Which pictures of a stream are not as they were sent, since packets of it were lost."""

from __future__ import annotations

from collections import deque
from typing import Any

from sharpose_rt.media.backlog import LONGEST_WAIT_S


class Spoilt:
    """Tells which pictures are to be left out, by what FFmpeg marks.

    What a decoder paints over a lost packet is no picture. Those after it are good enough (measured in H.264: poses are
    off by half a per cent of the height of large people, by 2 to 4 % in a crowd), unless it was a key frame, which is
    painted over from nothing, or in a codec of which FFmpeg conceals nothing. Then all up to the next key frame are
    spoilt, and what takes longer than `LONGEST_WAIT_S` counts as healed: some streams have none, and refresh their
    pictures bit by bit.

    Args:
        fps: of the stream.
        conceals: the decoder conceals, and marks, what was lost within a picture.
        by_packets: gaps that the demuxer marks count, by the parser's delay in the packet before. They are such of the
            network, and not of pieces that were joined.
    """

    def __init__(self, fps: float, *, conceals: bool, by_packets: bool) -> None:
        self._longest, self._conceals, self._by_packets = round(LONGEST_WAIT_S * fps), conceals, by_packets
        self._whole, self._in_a_row = True, 0
        self._next_is_damaged = False
        self._damaged_pts: deque[int | None] = deque(maxlen=32)  # of packets whose pictures are still to come

    def take(self, packet: Any) -> None:
        """Takes in a packet that is about to be decoded."""
        if self._next_is_damaged:
            self._damaged_pts.append(packet.pts)
        self._next_is_damaged = self._by_packets and packet.is_corrupt

    def __call__(self, frame: Any) -> bool:
        """Whether a decoded picture, the next one to be shown, is to be left out."""
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
