"""`--serve`, `--publish` and `--publish-video`: what follows the runs of a command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from sharpose_rt.config import RunConfig
from sharpose_rt.errors import ConfigError

if TYPE_CHECKING:
    from sharpose_rt.stages import Tap


def add_tap_arguments(parser: argparse.ArgumentParser) -> None:
    """The browser view and the consumers."""
    live = parser.add_argument_group("live view and network")
    live.add_argument(
        "--serve", metavar="[HOST:]PORT", help="show the run in a browser (host 127.0.0.1; any other needs --token)"
    )
    live.add_argument(
        "--token", metavar="SECRET", help="who may see the view; better in the environment, as SHARPOSE_TOKEN"
    )
    live.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this site, as http://localhost:5173, use the view's sockets and /api; repeatable",
    )
    live.add_argument(
        "--publish",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="send the skeletons to ws[s]://, zmq+tcp://, mqtt[s]://, udp:// or osc://HOST:PORT, or -; repeatable",
    )
    live.add_argument(
        "--publish-video",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="send the annotated video to a server: rtsp(s)://, rtmp(s)://, srt://, udp:// or tcp://; repeatable",
    )
    live.add_argument(
        "--publish-policy",
        choices=("newest", "queue"),
        help="what a slow consumer gets: the newest frame, or a bounded queue (default: live newest, files queue)",
    )


@contextmanager
def open_taps(
    args: argparse.Namespace, config: RunConfig, specs: Sequence[str], at_once: int = 1, *, paced: bool = False
) -> Iterator[list[Tap]]:
    """The taps of the command line, open while the block runs; `at_once` sources run side by side. Where they are not
    live, `paced` says that they come at their own pace all the same.

    Raises:
        ConfigError: a bad address or origin, or an extra that is not installed.
        OutputError: the port cannot be listened on.
    """
    token = args.token or os.environ.get("SHARPOSE_TOKEN") or None
    if args.publish_policy and not args.publish:
        raise ConfigError("--publish-policy says how --publish sends; give --publish too")
    if args.allow_origin and not args.serve:
        raise ConfigError("--allow-origin belongs to --serve; give --serve [HOST:]PORT too")
    if not args.serve and not args.publish and not args.publish_video:
        if args.token:
            raise ConfigError("--token belongs to --serve; give --serve [HOST:]PORT too")
        yield []
        return
    from sharpose_rt.live import (
        Hub,
        LiveServer,
        Publisher,
        VideoPublisher,
        parse_listen,
        parse_target,
        parse_video_target,
    )
    from sharpose_rt.media import is_live

    listen = parse_listen(args.serve, token, args.allow_origin) if args.serve else None
    targets = [parse_target(address, config.source.tls) for address in args.publish]
    live = all(is_live(spec, config.source) for spec in specs)
    if args.publish_video and not live and not paced:
        raise ConfigError(
            "--publish-video is for what comes at its own pace, and a file is read as fast as it goes; add --realtime"
        )
    videos = [parse_video_target(address, at_once, config.source.tls) for address in args.publish_video]
    policy = args.publish_policy or ("newest" if live else "queue")
    with ExitStack() as stack:
        publishers: list[Publisher | VideoPublisher] = [
            stack.enter_context(Publisher(t, policy, config.live.publish_queue, at_once, patient=not live))
            for t in targets
        ]
        publishers += [stack.enter_context(VideoPublisher(target, config)) for target in videos]
        taps: list[Tap] = list(publishers)
        if listen is not None:
            hub = Hub(config.live, config.draw, region=config.detector.polygon)
            hub.publishers = [publisher.figures for publisher in publishers]
            stack.enter_context(LiveServer(hub, listen))
            taps.append(hub)
        yield taps
