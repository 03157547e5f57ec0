"""CUDA streams: each network queues its work on one of its own, so that threads do not wait for each other's."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


class OwnStream:
    """A context in which work for a CUDA device goes to a stream of its own; on a CPU it changes nothing.

    Args:
        device: what is queued there before, such as the upload of weights, is done before any work of this stream.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def __call__(self) -> AbstractContextManager[object]:
        """The context, to be entered by one thread at a time."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def join(self) -> None:
        """What the caller queues on its own stream from here on waits for what is queued here."""
        if self.stream is not None:
            torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)
