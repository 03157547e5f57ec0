"""`--serve`, `--publish` and `--publish-video`: where the frames of a run go besides files."""

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
    """Adds the options for the browser view and for consumers."""
    live = parser.add_argument_group("live view and network")
    live.add_argument(
        "--serve", metavar="[HOST:]PORT", help="show the run in a browser (default host 127.0.0.1; others need --token)"
    )
    live.add_argument(
        "--token", metavar="SECRET", help="password for the view; better set in the environment, as SHARPOSE_TOKEN"
    )
    live.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let web pages of this origin, such as http://localhost:5173, use the view's sockets and /api; repeatable",
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
        help="what a slow consumer receives: the newest frame, or a bounded queue (default: live newest, files queue)",
    )


@contextmanager
def open_taps(
    args: argparse.Namespace, config: RunConfig, specs: Sequence[str], at_once: int = 1, *, paced: bool = False
) -> Iterator[list[Tap]]:
    """The taps of the command line, open while the block runs.

    Args:
        at_once: how many sources run at the same time.
        paced: sources that are not live play at their own pace.

    Raises:
        ConfigError: a bad address or origin, or an extra that is not installed.
        OutputError: cannot listen on the port.
    """
    token = args.token or os.environ.get("SHARPOSE_TOKEN") or None
    if args.publish_policy and not args.publish:
        raise ConfigError("--publish-policy needs --publish")
    if args.allow_origin and not args.serve:
        raise ConfigError("--allow-origin needs --serve [HOST:]PORT")
    if not args.serve and not args.publish and not args.publish_video:
        if args.token:
            raise ConfigError("--token needs --serve [HOST:]PORT")
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
            "--publish-video needs frames at their own pace, and a file is read as fast as possible; add --realtime"
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
