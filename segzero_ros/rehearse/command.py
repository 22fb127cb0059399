"""The command `segzero rehearse`. Exit codes: 0 it fits and answers, 1 it does not, 2 wrong use."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segzero_ros.profiles import load_profile

_MOST_PIXELS = 100_000_000


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "rehearse",
        help="random weights of a profile's real size: will it load, fit, and how fast is it here",
        description="Writes random weights of the profile's real dimensions, loads them as the node would, and times "
        "every stage of an answer. No download, no ROS. The answers mean nothing. A profile with embedded models is "
        "rehearsed with them.",
    )
    parser.add_argument("profile", help="a profile's name or the path of its YAML")
    parser.add_argument(
        "--dimensions", metavar="NAME", help="of the reasoner: a shipped name, a config.json or a folder with one"
    )
    parser.add_argument("--segmenter-dimensions", metavar="NAME", help="of the segmenter, likewise")
    parser.add_argument("--disk", type=Path, metavar="FOLDER", help="keep the weights here and take them again")
    parser.add_argument("--device", default="auto")
    formats = ("auto", "float32", "float16", "bfloat16")
    parser.add_argument("--dtype", nargs="+", default=["auto"], choices=formats, help="several are compared")
    parser.add_argument("--attention", nargs="+", default=["auto"], metavar="NAME", help="several are compared")
    parser.add_argument("--tokens", type=_count, default=32, help="of each answer (default: 32)")
    parser.add_argument("--prompt-tokens", type=_count, default=147, help="besides the image's (default: 147)")
    parser.add_argument("--repeat", type=_count, default=2, help="warm measurements of each stage (default: 2)")
    parser.add_argument(
        "--pictures",
        nargs="+",
        type=_size,
        default=[(1280, 720), (1920, 1080), (3840, 2160)],
        metavar="WxH",
        help="sizes for SAM (default: 1280x720 1920x1080 3840x2160)",
    )
    parser.add_argument("--objects", nargs="+", type=_count, default=[1, 8, 30], metavar="N", help="default: 1 8 30")
    parser.add_argument("--anyway", action="store_true", help="go on where memory or disk seem too small")
    parser.add_argument("--json", action="store_true", help="all figures as one JSON object on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Raises ProfileError for a profile that is none."""
    from segzero_ros.core.contract import SegzeroError
    from segzero_ros.rehearse.rehearsal import Options, rehearse

    options = Options(
        profile=load_profile(arguments.profile),
        dimensions=arguments.dimensions,
        segmenter_dimensions=arguments.segmenter_dimensions,
        disk=arguments.disk,
        device=arguments.device,
        dtypes=list(dict.fromkeys(arguments.dtype)),
        attentions=list(dict.fromkeys(arguments.attention)),
        tokens=arguments.tokens,
        repeat=arguments.repeat,
        prompt_tokens=arguments.prompt_tokens,
        pictures=arguments.pictures,
        objects=arguments.objects,
        anyway=arguments.anyway,
    )
    lines = sys.stderr if arguments.json else sys.stdout

    def say(line: str) -> None:
        print(line, file=lines, flush=True)

    with _orderly_end():
        try:
            found = rehearse(options, say)
        except SegzeroError as error:
            found = {"fits": False, "verdict": error.message}
        except OSError as error:
            found = {"fits": False, "verdict": f"the weights could not be written: {error}"}
    say(found["verdict"])
    if arguments.json:
        print(json.dumps(found))
    return 0 if found["fits"] else 1


@contextmanager
def _orderly_end() -> Iterator[None]:
    """A signal that ends the process lets the temporary folder be removed first: it can be 17 GB."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no number from 1 to 999999")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < width * height <= _MOST_PIXELS:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no size like 1920x1080 of at most 100 megapixels")
    return width, height
