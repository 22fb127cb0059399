"""A camera stream and six instructions through the real node; pictures and answers in out/. `make demo` runs it.

Three processes, as on a robot: the node, a player that is the camera, and this one, which asks and listens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import closed

# A domain of its own: a robot or another demo on this machine has a /clock and an image of its own. rclpy reads some
# of the settings as soon as it is imported.
closed.close(os.environ)

import cv2
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from segzero_msgs.msg import Segmentation, State
from segzero_msgs.srv import SegmentImage
from sensor_msgs.msg import Image
from std_msgs.msg import String
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
# What is asked, and the labels that a right answer has.
INSTRUCTIONS: tuple[tuple[str, list[str]], ...] = (
    ("something to drink from", ["white mug"]),
    ("the yellow duck", ["yellow duck"]),
    ("both bricks", ["black brick", "purple brick"]),
    ("something to kick", ["white soccer ball"]),
    ("the brick that is not black", ["purple brick"]),
    ("the red bear", []),
)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Robot:
    """Gives instructions and keeps the newest message of every topic."""

    def __init__(self, processes: list[subprocess.Popen], log: Path) -> None:
        rclpy.init()
        self.log = log  # of the node
        self.processes = processes
        self.node = rclpy.create_node("demo")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.newest: dict[str, Any] = {}
        for kind, name in (
            (State, "state"),
            (Segmentation, "result"),
            (String, "result_json"),
            (Image, "source_image"),
            (Image, "answer_image"),
        ):
            self.node.create_subscription(kind, f"/segzero/{name}", self._keeper(name), LATCHED)
        self.ask = self.node.create_publisher(String, "/segzero/instruction", 5)

    def _keeper(self, name: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            self.newest[name] = message

        return keep

    def until(self, right: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not right():
            self.executor.spin_once(timeout_sec=0.1)
            for process in self.processes:
                if process.poll() is not None:
                    said = "".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-20:])
                    raise SystemExit(f"{process.args!r} ended with code {process.returncode}\n{said}")
            if time.monotonic() > end:
                raise SystemExit(f"{what}: nothing within {seconds:g} s")

    def load(self) -> State:
        """Waits until the node is ready, with its progress shown."""
        with tqdm(total=100, desc="loading the models", bar_format="{desc}: {bar} {percentage:3.0f} %") as bar:

            def ready() -> bool:
                state = self.newest.get("state")
                if state is None:
                    return False
                if state.state == State.FAILED:
                    raise SystemExit(f"the node could not load its models: {state.message}")
                share = 100 if state.state == State.READY else round(100 * state.progress)
                if share > bar.n:
                    bar.update(share - bar.n)
                return bool(state.state == State.READY)

            self.until(ready, 180, "the node")
        return self.newest["state"]

    def instruct(self, text: str) -> Segmentation:
        """The answer; its picture and JSON are in `newest` then."""
        for name in ("result", "result_json", "answer_image", "source_image"):
            self.newest.pop(name, None)
        self.ask.publish(String(data=text))

        def answered() -> bool:
            result = self.newest.get("result")
            if result is None or result.instruction != text:
                return False
            pictures = [self.newest.get(name) for name in ("answer_image", "source_image")] if result.height else []
            return "result_json" in self.newest and all(p and p.header == result.header for p in pictures)

        self.until(answered, 120, f'"{text}"')
        return self.newest["result"]

    def call(self, text: str, picture: np.ndarray) -> Segmentation:
        """The answer about a picture that is sent along."""
        client = self.node.create_client(SegmentImage, "/segzero/segment")
        self.until(client.service_is_ready, 10, "~/segment")
        height, width = picture.shape[:2]
        image = Image(height=height, width=width, step=3 * width, encoding="rgb8", data=picture.tobytes())
        future = client.call_async(SegmentImage.Request(instruction=text, image=image))
        self.until(future.done, 120, f'"{text}" by ~/segment')
        return future.result().result


def pixels(message: Image) -> np.ndarray:
    return (
        np.frombuffer(message.data, np.uint8)
        .reshape(message.height, message.step)[:, : message.width * 3]
        .reshape(message.height, message.width, 3)
    )


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    height = max(left.shape[0], right.shape[0])
    tall = [np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0)), constant_values=24) for p in (left, right)]
    return np.hstack(tall)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out")
    parser.add_argument("--reasoner", help="another checkpoint folder than the embedded one")
    parser.add_argument("--segmenter", help="another checkpoint folder than the embedded one")
    parser.add_argument("--domain", type=int, help="a ROS domain, 0 to 232, instead of one of its own")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.domain is not None:
        if not 0 <= arguments.domain <= 232:
            parser.error("--domain is a number from 0 to 232")
        os.environ["ROS_DOMAIN_ID"] = str(arguments.domain)

    own = [f"-p {name}:={value}" for name in ("reasoner", "segmenter") if (value := getattr(arguments, name))]
    settings = "-p use_sim_time:=true -p image_topic:=/camera/color/image_raw " + " ".join(own)
    node = [sys.executable, "-m", "segzero_ros", "--ros-args", "--params-file", str(ROOT / "config/demo.yaml")]
    player = [sys.executable, str(ROOT / "examples/play.py"), str(ROOT / "examples/demo.mcap"), "--loop"]
    log = arguments.out / "node.log"  # not on the terminal: its lines would tear the progress bar
    processes = [
        subprocess.Popen([*node, *settings.split()], cwd=ROOT, stderr=log.open("w")),
        subprocess.Popen(player, stderr=subprocess.DEVNULL),
    ]
    rows, failed = [], 0
    try:
        robot = Robot(processes, log)
        print(f"ready: {robot.load().model}")
        with (arguments.out / "results.jsonl").open("w") as lines:
            for number, (text, wanted) in enumerate(tqdm(INSTRUCTIONS, desc="instructions", unit="instruction"), 1):
                began = time.monotonic()
                result = robot.instruct(text)
                seconds = time.monotonic() - began
                said = robot.newest["result_json"].data
                lines.write(said + "\n")
                if result.height:
                    picture = side_by_side(pixels(robot.newest["source_image"]), pixels(robot.newest["answer_image"]))
                    name = f"{number}_{text.replace(' ', '_')}.png"
                    cv2.imwrite(str(arguments.out / name), picture[:, :, ::-1])
                labels = sorted(i.label for i in result.instances)
                answered = result.status in (Segmentation.STATUS_OK, Segmentation.STATUS_NO_OBJECT)
                failed += not answered
                found = ", ".join(f"{i.label} ({i.area} px)" for i in result.instances) or result.message
                rows.append(
                    (text, json.loads(said)["status"], found, "yes" if labels == sorted(wanted) else "NO", seconds)
                )
        # A picture of a camera's size, by the service.
        text, wanted = INSTRUCTIONS[1]
        began = time.monotonic()
        result = robot.call(text, cv2.resize(pixels(robot.newest["source_image"]), (1920, 1080)))
        found = ", ".join(f"{i.label} ({i.area} px)" for i in result.instances) or result.message
        right = "yes" if [i.label for i in result.instances] == wanted else "NO"
        failed += result.status not in (Segmentation.STATUS_OK, Segmentation.STATUS_NO_OBJECT)
        status = {Segmentation.STATUS_OK: "OK", Segmentation.STATUS_NO_OBJECT: "NO_OBJECT"}.get(result.status, "failed")
        rows.append((f"{text}, 1080p, ~/segment", status, found, right, time.monotonic() - began))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)
    print(f"\n{'instruction':32} {'status':10} {'found':44} {'as meant':9} seconds")
    for text, status, found, right, seconds in rows:
        print(f"{text:32} {status:10} {found[:44]:44} {right:9} {seconds:6.1f}")
    print(f"\npictures, results.jsonl and node.log: {arguments.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
