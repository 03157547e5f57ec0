"""Skeletons from an MQTT broker; needs `pip install paho-mqtt` and a broker, such as Mosquitto.

The order of starting does not matter, and there can be any number of subscribers:

    python pipelines/receive_mqtt.py home/hall/poses
    sharpose-rt --source webcam --publish mqtt://127.0.0.1/home/hall/poses

In addition, `home/hall/poses/status` is `online` while the tracker is connected and `offline` otherwise, also after a
crash or a power cut.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topic")
    parser.add_argument("--host", default="127.0.0.1", help="of the broker (%(default)s)")
    parser.add_argument("--port", type=int, default=1883, help="of the broker (%(default)s)")
    parser.add_argument("--user")
    parser.add_argument("--password")
    args = parser.parse_args(argv)

    def subscribe(client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            sys.exit(f"error: the broker refuses: {reason}")
        client.subscribe([(args.topic, 0), (f"{args.topic}/status", 0)])  # again after each reconnection

    def take(client: Client, _data: Any, message: MQTTMessage) -> None:
        if message.topic.endswith("/status"):
            print(f"the tracker is {message.payload.decode()}", flush=True)
            return
        record = json.loads(message.payload)
        if record["type"] == "frame":
            boxes = {p["track_id"]: [round(v) for v in p["bbox_xyxy"]] for p in record["people"]}
            print(f"frame {record['frame_id']}  boxes {boxes}", flush=True)
        elif record["type"] == "end":
            client.disconnect()

    client = Client(CallbackAPIVersion.VERSION2)
    client.on_connect, client.on_message = subscribe, take
    if args.user is not None:
        client.username_pw_set(args.user, args.password)
    client.connect(args.host, args.port)
    client.loop_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, OverflowError, ValueError) as error:  # no broker, or no such port
        sys.exit(f"error: {error}")
