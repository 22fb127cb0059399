"""Many robots, one server: 64 clients at once in one process. None is lost, none gets another's answer."""

from __future__ import annotations

import base64
import json
import os
import re
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segzero_ros.core.contract import Cancel, Image
from segzero_ros.models.reasoner_server import ServerReasoner, load_server_reasoner
from segzero_ros.profiles import load_profile
from tests.servers import echo
from tests.servers.process import served

ROBOTS, TIMES = 64, 3
SIDE = 280
PROFILE = replace(
    load_profile("demo"), reasoner="http://localhost/v1", square=SIDE, prompt="{question}", max_new_tokens=64
)


@pytest.fixture
def address() -> Iterator[str]:
    with served("echo") as found:
        yield found


def told(address: str, what: str) -> Any:
    with urllib.request.urlopen(f"{address}/{what}", timeout=60) as answer:
        return json.load(answer)


def picture(robot: int, time: int) -> Image:
    return np.random.default_rng([robot, time]).integers(0, 255, (SIDE, SIDE, 3), np.uint8)


def expected(one: ServerReasoner, square: Image, words: str) -> str:
    png = base64.b64decode(one._data_url(square).partition(",")[2])
    return f"<think>{echo.name_of(png, words)}</think><answer>[]</answer>"


def ask(one: ServerReasoner, robot: int) -> int:
    """Its own picture and words, several times; how many answers were its own, and came in pieces that are."""
    own = 0
    for time in range(TIMES):
        square, words = picture(robot, time), f"the {robot} th mug at {time}"
        pieces: list[str] = []

        def hear(_: int, piece: str, to: list[str] = pieces) -> None:
            to.append(piece)

        (found,) = one.generate([square], [words], on_text=hear)
        own += found.text == "".join(pieces) == expected(one, square, words)
    return own


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("shared", [True, False], ids=["one adapter", "an adapter each"])
def test_none_is_lost_and_none_is_crossed(address: str, shared: bool) -> None:
    url = f"{address}/{ROBOTS}/0/v1"  # the first answers come once all have asked
    robots = [load_server_reasoner(PROFILE, url)] * ROBOTS if shared else []
    robots = robots or [load_server_reasoner(PROFILE, url) for _ in range(ROBOTS)]
    threads, files = threading.active_count(), open_files()
    with ThreadPoolExecutor(ROBOTS) as pool:
        assert list(pool.map(ask, robots, range(ROBOTS))) == [TIMES] * ROBOTS
    assert told(address, "most") >= ROBOTS, "they asked at once"
    assert told(address, "open") == 0, "and every connection was closed"
    assert threading.active_count() <= threads and open_files() <= files, "a thread of an earlier test may end"


def test_one_batch_of_them_is_in_order(address: str) -> None:
    one = load_server_reasoner(PROFILE, f"{address}/{ROBOTS}/0/v1")
    squares = [picture(robot, 0) for robot in range(ROBOTS)]
    words = [f"the {robot} th mug" for robot in range(ROBOTS)]
    found = one.generate(squares, words)
    assert [f.text for f in found] == [expected(one, s, w) for s, w in zip(squares, words, strict=True)]
    assert told(address, "open") == 0


def test_one_robot_that_leaves_takes_nobody_with_it(address: str) -> None:
    """Half of them leave at their first piece; the others' answers are whole."""
    one = load_server_reasoner(PROFILE, f"{address}/{ROBOTS}/0/v1")

    def leave_or_stay(robot: int) -> bool:
        flag, square, words = Cancel(), picture(robot, 0), f"the {robot} th mug"
        leaves = robot % 2 == 1
        (found,) = one.generate([square], [words], cancel=flag, on_text=lambda *_: flag.set() if leaves else None)
        whole = expected(one, square, words)
        return found.cancelled and whole.startswith(found.text) if leaves else found.text == whole

    threads, files = threading.active_count(), open_files()
    with ThreadPoolExecutor(ROBOTS) as pool:
        assert all(pool.map(leave_or_stay, range(ROBOTS)))
    assert told(address, "open") == 0
    assert threading.active_count() <= threads and open_files() <= files, "a thread of an earlier test may end"


def test_names_are_of_picture_and_words() -> None:
    names = {echo.name_of(bytes([p]), w) for p in range(3) for w in ("a", "b")}
    assert len(names) == 6 and all(re.fullmatch("[0-9a-f]{64}", name) for name in names)
