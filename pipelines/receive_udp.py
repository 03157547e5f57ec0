"""Skeletons over UDP, using only Python's standard library.

    python pipelines/receive_udp.py 7000
    sharpose-rt --source webcam --publish udp://127.0.0.1:7000

Each datagram is one record. The header is repeated every second; a frame with very many people is sent in several
datagrams, each with some of them and `"part": [i, n]`.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for other machines")
    args = parser.parse_args(argv)

    names: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as consumer:
        consumer.bind((args.host, args.port))
        while True:
            record = json.loads(consumer.recv(65536))
            if record["type"] == "header":
                names = record["keypoints"]
            elif record["type"] == "frame" and names:
                for person in record["people"]:
                    x, y, score = person["keypoints"][0]  # COCO's first is the nose
                    place = f"{names[0]} ({x:.0f}, {y:.0f}) {score:.2f}"
                    print(f"frame {record['frame_id']}  id {person['track_id']}  {place}")
            elif record["type"] == "end":
                return


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, OverflowError) as error:  # the port is taken, say, or there is none such
        sys.exit(f"error: {error}")
