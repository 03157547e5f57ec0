"""Hardware video decoders (NVDEC, VAAPI, VideoToolbox, ...), through PyAV."""

from __future__ import annotations

from functools import cache

from av.codec import Codec
from av.codec.hwaccel import HWAccel, hwdevices_available

from sharpose_rt.config.schema import HWACCELS
from sharpose_rt.errors import SourceError


def decoder(wanted: str) -> HWAccel | None:
    """The decoder for `av.open`: 'auto' is the first kind that works here; None (for 'none') is the CPU.

    Streams that the hardware does not support are decoded on the CPU.

    Raises:
        SourceError: the kind does not work here; says why.
    """
    if wanted == "none":
        return None
    kinds = [kind for kind in HWACCELS if problem(kind) is None] if wanted == "auto" else [wanted]
    if wanted != "auto" and (reason := problem(wanted)):
        raise SourceError(
            f"--hwaccel {wanted} does not work here ({reason}); --hwaccel auto uses one that works, none the CPU"
        )
    return HWAccel(kinds[0], allow_software_fallback=True) if kinds else None


@cache
def problem(kind: str) -> str | None:
    """Why decoders of a kind cannot be used; None if they can."""
    if kind not in hwdevices_available():
        return f"the FFmpeg inside PyAV has {', '.join(hwdevices_available()) or 'none'}"
    try:
        HWAccel(kind).create(Codec("h264", "r"))
    except (OSError, RuntimeError, ValueError, NotImplementedError) as error:
        return str(error)
    return None
