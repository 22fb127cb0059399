#!/usr/bin/env python3
"""Ask a running node by its action ~/ask and watch it think.

    python3 examples/ask.py "something to drink from"
    python3 examples/ask.py --point 320,240 --3d
    python3 examples/ask.py "the mug" --image photo.jpg --timeout 20

Ctrl-C cancels the goal and waits for the node's last word; a second one leaves at once.
Exit codes: 0 found, 3 nothing matches, 1 failed, 130 cancelled.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rclpy.utilities import remove_ros_args
from segzero_msgs.action import Segment

from segzero_ros.client import STAGES, Answer, AskError, Object, Question, Segzero
from segzero_ros.core.contract import Prompt, SegzeroError, Status
from segzero_ros.core.pixels import read_image
from segzero_ros.core.space import Status3D
from segzero_ros.core.text import clean, one_line

FOUND, FAILED, NOTHING, CANCELLED = 0, 1, 3, 130
CODES = {Status.OK: FOUND, Status.NO_OBJECT: NOTHING, Status.CANCELLED: CANCELLED}
CLEAR_LINE, DIM, PLAIN = "\r\x1b[2K", "\x1b[2m", "\x1b[0m"


def numbers(count: int, names: str) -> Any:
    """For argparse: so many numbers with commas between them."""

    def read(text: str) -> tuple[float, ...]:
        values = tuple(float(part) for part in text.split(","))
        if len(values) != count:
            raise argparse.ArgumentTypeError(f"{text!r} has {len(values)} numbers; it is {names}")
        return values

    read.__name__ = names
    return read


def printable(text: str) -> str:
    """What a terminal may show of a model's text: line breaks stay, escape sequences go."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in clean(text))


class Screen:
    """What is thought, with a line of state below it where there is a terminal. Safe for two threads."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._lock = threading.Lock()
        self._boxes = 0
        self._stage = ""
        self._at_start = True  # of a line of thought

    def show(self, feedback: Segment.Feedback) -> None:
        stage = STAGES.get(feedback.stage, "?")
        with self._lock:
            self._clear_state()
            if not self._terminal and stage != self._stage:
                self._line(f"[{feedback.elapsed:.1f} s] {stage}")
            self._stage = stage
            self._think(printable(feedback.text_delta))
            for box in feedback.boxes[self._boxes :]:
                self._line(f"box {box.x_min:.0f},{box.y_min:.0f} {box.x_max:.0f},{box.y_max:.0f}")
            self._boxes = max(self._boxes, len(feedback.boxes))
            if self._terminal and self._at_start:
                self._out.write(f"{DIM}[{feedback.elapsed:.1f} s] {stage}{PLAIN}")
            self._out.flush()

    def say(self, line: str) -> None:
        with self._lock:
            self._clear_state()
            self._line(one_line(line))
            self._out.flush()

    def _clear_state(self) -> None:
        if self._terminal and self._at_start:
            self._out.write(CLEAR_LINE)

    def _think(self, text: str) -> None:
        if text:
            self._out.write(text)
            self._at_start = text.endswith("\n")

    def _line(self, text: str) -> None:
        self._out.write(text + "\n" if self._at_start else f"\n{text}\n")
        self._at_start = True


def described(found: Object) -> str:
    label = one_line(found.label, 60) or "object"
    text = f"{found.index}. {label}: box {','.join(f'{v:.0f}' for v in found.box)}, {found.area} px, {found.score:.2f}"
    if found.status_3d is Status3D.OK:
        x, y, z = found.centroid
        w, d, h = found.size
        text += f"; centroid ({x:.3f}, {y:.3f}, {z:.3f}) m in {one_line(found.frame_id, 40)!r}"
        text += f", size {w:.3f} x {d:.3f} x {h:.3f} m, visible {found.visible:.0%}"
    elif found.status_3d is not Status3D.NOT_ASKED:
        text += f"; no 3D, {found.status_3d.value}: {one_line(found.message_3d, 120)}"
    return text


def wait(question: Question, screen: Screen) -> Answer:
    """The answer; Ctrl-C cancels, and a second one is a KeyboardInterrupt."""
    cancelled = None
    while True:
        try:
            answer = question.result()
            break
        except KeyboardInterrupt:
            if cancelled is not None:
                raise
            cancelled = time.monotonic()
            screen.say("cancelling; Ctrl-C again leaves")
            question.cancel()
    if cancelled is not None:
        screen.say(f"{answer.status.value} {1000 * (time.monotonic() - cancelled):.0f} ms after Ctrl-C")
    return answer


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("instruction", nargs="?", default="", help="with a box or a point: the label")
    parser.add_argument("--box", type=numbers(4, "X1,Y1,X2,Y2"), action="append", default=[], help="an object's box")
    parser.add_argument("--point", type=numbers(2, "X,Y"), action="append", default=[], help="a pixel on an object")
    parser.add_argument("--3d", dest="want_3d", action="store_true", help="positions and sizes, too")
    parser.add_argument("--image", type=Path, help="a picture instead of the camera's")
    parser.add_argument("--timeout", type=float, default=0.0, help="seconds; 0: the node's")
    parser.add_argument("--not-before", choices=["now"], help="no frame that was taken before now")
    parser.add_argument("--node", default="segzero", help="the node's name")
    chosen = parser.parse_args(argv)
    if not (chosen.instruction or chosen.box or chosen.point):
        parser.error("an instruction, a --box or a --point is needed")
    return chosen


def ask(robot: Segzero, chosen: argparse.Namespace, screen: Screen) -> int:
    prompts = [Prompt(box=box) for box in chosen.box]
    prompts += [Prompt(points=(point,), positive=(True,)) for point in chosen.point]
    question = robot.ask(
        chosen.instruction,
        prompts=prompts,
        image=read_image(chosen.image) if chosen.image else None,
        not_before=robot.now() if chosen.not_before else None,
        timeout=chosen.timeout,
        want_3d=chosen.want_3d,
        on_feedback=screen.show,
    )
    answer = wait(question, screen)
    screen.say(f"{answer.status.value}: {answer.message} ({answer.raw.timing.total:.1f} s)")
    for found in answer.instances:
        screen.say(described(found))
    return CODES.get(answer.status, FAILED)


def main(argv: Sequence[str] | None = None) -> int:
    given = sys.argv if argv is None else ["ask.py", *argv]
    chosen = arguments(remove_ros_args(list(given))[1:])
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job
        signal.signal(signal.SIGINT, signal.default_int_handler)
    screen = Screen(sys.stdout)
    try:
        with Segzero.standalone(chosen.node, args=given) as robot:
            return ask(robot, chosen, screen)
    except (AskError, SegzeroError, ValueError, OSError) as error:
        print(f"ask.py: {one_line(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return CANCELLED


if __name__ == "__main__":
    sys.exit(main())
