"""What a run writes, under one stem: stream, annotated video or pictures, other formats and summary."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpose_rt.config import OutputConfig, RunConfig
from sharpose_rt.graph import People
from sharpose_rt.runtime import Status

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from sharpose_rt.media import Painter, SourceInfo
    from sharpose_rt.skeletons import Header, OutputPaths
    from sharpose_rt.stages import Part, Sink, Tap
    from sharpose_rt.types import Frame

log = logging.getLogger("sharpose_rt")


@dataclass(frozen=True)
class Results:
    """Where the outputs of a run are (None: not written), how it ended, and the contents of its summary. For outputs in
    parts: those of the last part, and the number of parts (otherwise 0)."""

    status: Status
    stream: Path | None
    video: Path | None
    summary: Path | None
    figures: dict[str, Any]
    formats: tuple[Path, ...] = ()
    parts: int = 0
    recording: Path | None = None


def check_outputs(output: OutputConfig) -> None:
    """Raises ConfigError if the requested formats cannot be written with their options."""
    from sharpose_rt.skeletons.convert import check_formats

    check_formats(output.formats, _format_options(output))


class RunOutputs:
    """The outputs of one run.

    Args:
        people: provide the header of the stream.
        config: of the run; if the folder is known only later, set `config` before `open`.
        taps: receive each frame as it is done.
        taken: names of outputs used by earlier runs, to which it adds its own.
    """

    def __init__(self, people: People, config: RunConfig, taps: Sequence[Tap], taken: set[str] | None) -> None:
        self.people, self.config, self.taps = people, config, tuple(taps)
        self.stem: str | None = None  # the name for taps, if not the source's own
        self.in_place_of: str | None = None  # the name of earlier results to overwrite
        self._taken = set() if taken is None else taken
        self._paths: OutputPaths | None = None
        self._sinks: list[Sink] = []
        self._parts: list[dict[str, Any]] = []  # for the summary: the finished ones
        self._converting: ThreadPoolExecutor | None = None  # converts finished parts while the next one is written
        self._conversions: deque[Future[tuple[Path, ...]]] = deque()

    def open(self, info: SourceInfo, state: Callable[[], str], *, video: bool, stream: bool = True) -> Iterator[Sink]:
        """Opens the outputs one by one, so that the caller can close those that were opened before one fails.

        Args:
            info: of the source, which is open.
            state: returns the state of the source, see `Source.state`.
            video: write the annotated video too.
            stream: write the skeletons and the recording, and feed the taps.

        Raises:
            OutputError: one cannot be written.
        """
        from sharpose_rt.skeletons.names import safe_stem, unique_name
        from sharpose_rt.stages import ImageSink, PartedSink, StreamSink, VideoSink

        output, pictures = self.config.output, info.kind in ("image", "images")
        record = output.record and stream and not pictures
        if output.split_s and pictures:
            log.warning("--split is for video: the pictures of %s go into one stream", info.name)
        if output.record and pictures:
            log.warning("--record is for video: the pictures of %s are files already", info.name)
        in_parts = output.split_s > 0 and not pictures
        if self._paths is None:
            stem = self.in_place_of or unique_name(safe_stem(info.stem), self._taken)
            self._paths = self._new_paths(stem, in_parts=in_parts)
        paths = self._paths
        if stream and ((output.stream and not in_parts) or self.taps):
            path = paths.stream if output.stream and not in_parts else None
            told = info if self.stem is None else replace(info, stem=self.stem)
            options = {"live": self.people.live, "overwrite": output.overwrite, "taps": self.taps}
            yield self._keep(StreamSink(path, self._header(info), told, **options, state=state))
        if in_parts and (output.stream or video or record):
            begin = self._part_of(info, video=video)
            yield PartedSink(output.split_s, begin, self._end_part, live=self.people.live)
            return
        if record:
            yield self._keep(VideoSink(paths.recording, info, None, output))
        if video and pictures:
            yield self._keep(ImageSink(paths, info, self.painter()))
        elif video:
            yield self._keep(VideoSink(paths.video, info, self.painter(), output))

    def _part_of(self, info: SourceInfo, *, video: bool) -> Callable[[Frame], Iterator[Sink]]:
        """A function that opens the files of the part starting with a frame, named by its time."""
        from sharpose_rt.skeletons.names import unique_name
        from sharpose_rt.stages import StreamSink, VideoSink, captured_at

        assert self._paths is not None
        output, painter, stem = self.config.output, self.painter(), self._paths.with_suffix("").name
        taken: set[str] = set()  # by this run, whose parts `overwrite` must not replace: two may start in one second

        def begin(frame: Frame) -> Iterator[Sink]:
            if self.people.live:
                name = f"{captured_at(frame)[0]:%Y%m%dT%H%M%SZ}"
            else:
                minutes, seconds = divmod(int(frame.pts_s), 60)
                name = f"{minutes // 60:02}h{minutes % 60:02}m{seconds:02}s"
            paths = self._new_paths(unique_name(f"{stem}.{name}", taken), of_part=True)
            self._sinks.clear()
            if output.stream:
                header, live = self._header(info), self.people.live
                yield self._keep(StreamSink(paths.stream, header, info, live=live, overwrite=output.overwrite))
            else:
                paths.release()
            if output.record:
                yield self._keep(VideoSink(paths.recording, info, None, output))
            if video:
                yield self._keep(VideoSink(paths.video, info, painter, output))

        return begin

    def _header(self, info: SourceInfo) -> Header:
        return replace(self.people.header(info), place=self.place)

    def _end_part(self, part: Part) -> None:
        """Records a finished part for the summary, and writes its other formats in a separate thread."""
        from concurrent.futures import ThreadPoolExecutor

        stream, video, recording = _files_of(part.sinks)
        row = {
            "stream": stream and stream.name,
            "video": video and video.name,
            "recording": recording and recording.name,
            "formats": [],
            "frames": part.frames,
            "first_pts_s": round(part.first_pts_s, 6),  # as in the stream
            "last_pts_s": round(part.last_pts_s, 6),
        }
        self._parts.append(row)
        if stream is None or not self.config.output.formats:
            return
        while self._conversions and self._conversions[0].done():
            self._conversions.popleft().result()  # an error ends the run, as it would at its end
        self._converting = self._converting or ThreadPoolExecutor(1, "formats")
        self._conversions.append(self._converting.submit(self._convert_part, stream, row))

    def _convert_part(self, stream: Path, row: dict[str, Any]) -> tuple[Path, ...]:
        formats = self._convert(stream)
        row["formats"] = [path.name for path in formats]
        return formats

    def _new_paths(self, stem: str, *, in_parts: bool = False, of_part: bool = False) -> OutputPaths:
        """Names that are not used yet, and will not be used by the requested formats."""
        from sharpose_rt.skeletons import output_paths
        from sharpose_rt.skeletons.convert import WRITERS

        output = self.config.output
        suffixes = [WRITERS[name].suffix for name in output.formats]
        how = {"in_parts": in_parts, "of_part": of_part}
        return output_paths(output.directory, stem, output.overwrite, suffixes, **how)

    def _keep(self, sink: Sink) -> Sink:
        self._sinks.append(sink)
        return sink

    def painter(self) -> Painter:
        """A new painter for the configuration; it remembers trails, so each output needs its own."""
        from sharpose_rt.media import Painter

        return Painter(self.people.skeleton, self.config.draw, self.config.detector.polygon)

    @property
    def stream(self) -> Path:
        """The file of the stream, once it is open."""
        assert self._paths is not None
        return self._paths.stream

    @property
    def place(self) -> str | None:
        """See `Header.place`."""
        from sharpose_rt.skeletons.earlier import place_beside

        source = self.people.source
        by_address = "://" in source.name and not self.people.live
        known = source.stored is not None or by_address
        return place_beside(self.config.output.directory, source.name) if known else None

    def finish(self, status: Status, figures: dict[str, Any]) -> Results:
        """Writes the other formats from the finished stream and the summary, releases unused names, and returns where
        everything is; call it after the outputs were closed.

        Raises:
            SharposeError: a format or the summary cannot be written.
        """
        from sharpose_rt.skeletons import write_summary

        stream, video, recording = _files_of(self._sinks)
        figures = {**figures, "files": [], "parts": self._parts}
        summary, formats = None, ()
        try:
            formats = self._formats_of_parts() if self._parts else self._convert(stream)
            if not self._parts:
                figures["files"] = [path.name for path in (stream, video, recording, *formats) if path is not None]
        except BaseException:
            figures["status"] = "error"
            raise
        finally:
            if self._paths is not None:
                summary = self._paths.summary
                try:
                    write_summary(summary, figures)
                finally:
                    self._paths.release()
        return Results(status, stream, video, summary, figures, formats, len(self._parts), recording)

    def _formats_of_parts(self) -> tuple[Path, ...]:
        """The formats of the last part, after all have been written."""
        if self._converting is not None:
            self._converting.shutdown()
        made = [conversion.result() for conversion in self._conversions]
        return made[-1] if made else ()

    def _convert(self, stream: Path | None) -> tuple[Path, ...]:
        from sharpose_rt.skeletons.convert import convert_all

        output = self.config.output
        if stream is None or not output.formats:
            return ()
        return tuple(convert_all(stream, output.formats, overwrite=output.overwrite, **_format_options(output)))


def _files_of(sinks: Sequence[Sink]) -> tuple[Path | None, Path | None, Path | None]:
    """The files of the skeletons, the annotated video or pictures, and the recording among these outputs."""
    from sharpose_rt.stages import StreamSink, VideoSink

    stream = video = recording = None
    for sink in sinks:
        if isinstance(sink, StreamSink):
            stream = sink.path
        elif isinstance(sink, VideoSink) and sink.recording:
            recording = sink.path
        else:
            video = sink.path
    return stream, video, recording


def _format_options(output: OutputConfig) -> dict[str, Any]:
    """Options of the formats, by name."""
    from sharpose_rt.skeletons.convert import options_of

    given: dict[str, Any] = {} if output.fill == "none" else {"fill": output.fill}
    if output.person_slots is not None:
        given["person_slots"] = output.person_slots
    return given | options_of(output.format_options)
