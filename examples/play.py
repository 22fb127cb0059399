"""Plays a recording as a camera, with its clock and its offered QoS.

    python examples/play.py examples/demo.mcap --loop

For environments without rosbag2; where that is, `ros2 bag play --clock` does the same.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import rclpy
import yaml
from builtin_interfaces.msg import Time
from mcap.reader import make_reader
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

LARGE_FRAMES = Path(__file__).resolve().parent.parent / "config" / "fastdds_large_frames.xml"
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # up to Jazzy, and since


def profile(offered: str) -> QoSProfile:
    """The first of a recording's offered profiles, in rosbag2's YAML (names, as written since Iron)."""
    said = (yaml.safe_load(offered) or [{}])[0]
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=max(1, int(said.get("depth", 10))),
        reliability=ReliabilityPolicy[str(said.get("reliability", "reliable")).upper()],
        durability=DurabilityPolicy[str(said.get("durability", "volatile")).upper()],
    )


def message_type(name: str) -> Any | None:
    """sensor_msgs/msg/Image to its class; None when the package is not installed."""
    package, _, kind = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except ImportError:
        return None


def make_room(environment: MutableMapping[str, str]) -> None:
    """Gives Fast DDS room for whole frames, unless somebody has chosen its profile or transports.

    A recorded camera is often best effort, and without room most of its frames are lost. Only who publishes needs it.
    """
    if not any(environment.get(name) for name in (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")):
        environment.update(dict.fromkeys(PROFILE_VARIABLES, str(LARGE_FRAMES)))


def play(path: Path, *, loop: bool, rate: float) -> None:
    """Publishes until the end, or for ever. Time between messages is the recording's, divided by rate."""
    make_room(os.environ)
    rclpy.init()
    node = rclpy.create_node("player")
    clock = node.create_publisher(Clock, "/clock", 10)
    publishers: dict[int, Any] = {}
    with path.open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary is not None
        for number, channel in summary.channels.items():
            kind = summary.schemas[channel.schema_id].name
            found = message_type(kind)
            if found is None:
                node.get_logger().info(f"{channel.topic}: {kind.split('/')[0]} is not installed, not played")
                continue
            qos = profile(channel.metadata.get("offered_qos_profiles", ""))
            publishers[number] = node.create_publisher(found, channel.topic, qos)
        messages = [(m.log_time, c.id, m.data) for _, c, m in reader.iter_messages() if c.id in publishers]
    if not messages:
        raise SystemExit(f"{path}: nothing in it can be played here")
    span = messages[-1][0] - messages[0][0] + 100_000_000
    turn = 0
    began = time.monotonic()
    while True:
        for stamp, number, data in messages:
            due = began + (turn * span + stamp - messages[0][0]) / 1e9 / rate
            while (left := due - time.monotonic()) > 0:
                time.sleep(min(left, 0.02))
                now = stamp - round(max(0.0, due - time.monotonic()) * rate * 1e9)
                clock.publish(Clock(clock=Time(sec=now // 10**9, nanosec=now % 10**9)))
            publishers[number].publish(bytes(data))
        if not loop:
            return
        turn += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("--loop", action="store_true")
    parser.add_argument("--rate", type=float, default=1.0)
    arguments = parser.parse_args()
    try:
        play(arguments.recording, loop=arguments.loop, rate=arguments.rate)
    except KeyboardInterrupt:
        pass
    except Exception:
        if rclpy.ok():  # otherwise it was told to end
            raise


if __name__ == "__main__":
    main()
