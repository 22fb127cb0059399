"""Processes of the node for tests: real ones, on real DDS, with small random models of the real classes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

import closed

# Before rclpy is imported anywhere: this machine only, no neighbour's domain, nothing of the shell's ROS.
ROOT = Path(__file__).resolve().parent.parent
FOREIGN = {path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if ROOT not in Path(path, "x").parents}
closed.close(os.environ)
if "PYTHONPATH" not in os.environ:
    sys.path[:] = [path for path in sys.path if path not in FOREIGN]

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")

GPU = pytest.StashKey[bool]()
LONG = """
description: random weights that write for long
prompt: plain
reasoner: embedded
segmenter: embedded
square: 224
system: null
max_new_tokens: 100000
"""
# A node whose load waits until somebody opens the other end of a pipe, the first argument.
HELD = """
import signal
import sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # as main does, before torch has threads
from segzero_ros.pipeline import Pipeline
from segzero_ros.ros.main import main

load = Pipeline.load

def held(*arguments, **more):
    open(sys.argv[1]).close()
    return load(*arguments, **more)

Pipeline.load = held
main(sys.argv[4:])  # behind the pipe, the interpreter and its -m
"""


def asks_for_gpu(markers: str) -> bool:
    return re.search(r"(?<!not )\bgpu\b", markers) is not None


def pytest_configure(config: pytest.Config) -> None:
    """Tests see no GPU, unless those for one are asked for: `pytest -m gpu`."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # by nohup; nodes would inherit that, but not a handler
        signal.signal(signal.SIGHUP, lambda *_: None)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # by a shell that started the tests in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[GPU] = asks_for_gpu(config.option.markexpr)
    if not config.stash[GPU]:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not config.stash[GPU]:
            item.add_marker(pytest.mark.skip(reason="runs with -m gpu"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from tests import tiny_models

    root = tmp_path_factory.mktemp("models")
    return tiny_models.save_reasoner(root / "reasoner"), tiny_models.save_segmenter(root / "segmenter")


@pytest.fixture(scope="session")
def long_profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile whose generation takes longer than any test."""
    path = tmp_path_factory.mktemp("profiles") / "long.yaml"
    path.write_text(LONG)
    return path


@pytest.fixture
def robot() -> Iterator:
    from tests.robot import Robot

    robot = Robot()
    yield robot
    robot.close()


@pytest.fixture
def start(models: tuple[Path, Path]) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a node with these parameters; `remap` are further ROS arguments, `before` a command that starts it."""
    running: list[subprocess.Popen] = []

    def run(remap: tuple[str, ...] = (), before: tuple[str, ...] = (), **parameters: object) -> subprocess.Popen:
        settings = {"reasoner": str(models[0]), "segmenter": str(models[1]), "max_age": 0.0} | parameters
        arguments = [x for name, value in settings.items() for x in ("-p", f"{name}:={value}")]
        command = [*before, sys.executable, "-m", "segzero_ros", "--ros-args", *remap, *arguments]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True))
        return running[-1]

    yield run
    ends = [process.poll() for process in running]
    for process, end in zip(running, ends, strict=True):
        if end is None:
            process.terminate()  # one that is killed is in the graph for another 20 s, and its shared memory stays
    for process, end in zip(running, ends, strict=True):
        try:
            said = process.communicate(timeout=10)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            said = process.communicate()[1]
        # Shown beside a test that failed.
        print(f"a node, {'alive' if end is None else f'ended with {end}'}, had said:\n{said}", file=sys.stderr)


class Held:
    """A node that is started with `before` loads until it may go on."""

    def __init__(self, pipe: Path) -> None:
        os.mkfifo(pipe)
        self._pipe = pipe
        self.before = (sys.executable, "-c", HELD, str(pipe))

    def go_on(self) -> None:
        self._pipe.write_bytes(b"")


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return Held(tmp_path / "pipe")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """What is to be equal bit by bit is summed in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
