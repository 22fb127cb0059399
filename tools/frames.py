"""Count the camera frames that reach the node's own inputs of those that were sent, and what an idle node costs.

    python tools/frames.py [--sizes 720p 4K] [--seconds 5] [--order both] [--json FILE] [--page docs/frames.md]

Camera and receiver are two processes, started anew for every row. The receiver is `segzero_ros.ros.inputs.Inputs` on a
node, pulled all the time as a request that waits pulls it; once a second it follows the publishers' reliability, as the
node does. Frames are counted from when the two have met and the receiver listens as it will: discovery is not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import IO, Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import closed  # noqa: E402
from segzero_ros.launching import DDS_VARIABLES  # noqa: E402

PROFILE = ROOT / "config" / "fastdds_large_frames.xml"
SIZES = {"480p": (640, 480), "720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
TOPIC = "/camera/image"
WARM_UP = 10  # frames a second at most while the two find each other
SETTLED = 1.2  # seconds without a change; the receiver looks at its publishers once a second
QUIET = 1.0  # seconds without a frame after which no more is expected
PATIENCE = 30.0  # seconds for a process to start, or for the two to find each other


@dataclass(frozen=True)
class Case:
    """One row.

    profile: a file for both processes, or "" for Fast DDS's defaults. first: which process starts first. history,
    depth: of the camera's and of the receiver's history; 0 is the node's own.
    """

    size: str
    rate: int
    reliable: bool = True
    profile: str = ""
    compressed: bool = False
    first: str = "node"
    frames: int = 50
    history: int = 5
    depth: int = 0


@dataclass(frozen=True)
class Row:
    """What came of it. achieved: frames a second that the camera sent; late: ms from the stamp to the taking."""

    case: Case
    sent: int
    arrived: int
    achieved: float
    size: int
    late: float


@dataclass
class Idle:
    """Per cent of a core, by process, without a camera and with one."""

    without: dict[str, list[float]] = field(default_factory=dict)
    beside: dict[str, list[float]] = field(default_factory=dict)
    achieved: list[float] = field(default_factory=list)


# -- the two processes; they import ROS, this file's main does not


def picture(width: int, height: int) -> Any:
    """RGB with large shapes and some noise: as a JPEG about as large as a camera's."""
    import numpy as np

    y, x = np.mgrid[0:height, 0:width]
    waves = 96 + 60 * np.sin(x / 97) * np.cos(y / 61)
    noise = np.random.default_rng(0).normal(0, 4, (height, width))
    return np.stack([waves + noise + shift for shift in (0, 20, 40)], axis=2).clip(0, 255).astype(np.uint8)


def message(case: Case) -> Any:
    import cv2
    from sensor_msgs.msg import CompressedImage
    from std_msgs.msg import Header

    from segzero_ros.ros.convert import bytes_array, image_to_msg

    width, height = SIZES[case.size]
    pixels, header = picture(width, height), Header(frame_id="camera")
    if not case.compressed:
        return image_to_msg(pixels, "rgb8", header)
    jpeg = cv2.imencode(".jpg", pixels[:, :, ::-1])[1].tobytes()
    return CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=bytes_array(jpeg))


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def camera(case: Case) -> None:
    """Streams until it is told to count; then sends the frames that count, once it is told so."""
    import rclpy
    from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

    rclpy.init()
    node = rclpy.create_node("camera")
    reliability = ReliabilityPolicy.RELIABLE if case.reliable else ReliabilityPolicy.BEST_EFFORT
    frame = message(case)
    publisher = node.create_publisher(
        type(frame),
        TOPIC + ("/compressed" if case.compressed else ""),
        QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=case.history, reliability=reliability),
    )

    def send(frames: Iterator[int], rate: float) -> tuple[int, float]:
        """How many it sent, and how many a second. A camera that is late drops no frame and does not hurry after."""
        sent, began = 0, time.monotonic()
        due = began
        for _ in frames:
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + 1 / rate, time.monotonic())
            frame.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(frame)
            sent += 1
        time.sleep(max(0.0, due - time.monotonic()))
        return sent, sent / (time.monotonic() - began)

    told = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        told.set()

    threading.Thread(target=listen, daemon=True).start()
    say(ready=True)
    send(itertools.takewhile(lambda _: not told.is_set(), itertools.count()), min(case.rate, WARM_UP))
    say(quiet=True)
    for line in sys.stdin:
        sent, achieved = send(iter(range(int(line))), case.rate)
        say(sent=sent, achieved=achieved, size=len(frame.data))
    node.destroy_node()  # DDS leaves shared memory behind unless its participant ends
    rclpy.try_shutdown()


def receiver(case: Case, takes: bool) -> None:
    """Takes frames all the time, or none ever; says on request how many came, and the state of a node."""
    import rclpy
    from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
    from rclpy.parameter import Parameter
    from segzero_msgs.msg import State

    from segzero_ros.core.contract import Cancel, SegzeroError
    from segzero_ros.ros.executor import Executor
    from segzero_ros.ros.inputs import Inputs
    from segzero_ros.ros.qos import profile

    rclpy.init()
    topic = TOPIC + ("/compressed" if case.compressed else "")
    overrides = [Parameter(f"qos_overrides.{topic}.subscription.depth", value=case.depth)] if case.depth else []
    node = rclpy.create_node("receiver", parameter_overrides=overrides)
    inputs = Inputs(node)
    inputs.open(TOPIC, "compressed" if case.compressed else "raw", "", "")
    node.create_timer(1.0, inputs.look, MutuallyExclusiveCallbackGroup())
    states = node.create_subscription(State, "/segzero/state", print, profile(latched=True))
    executor, stop = Executor(2), Cancel()
    executor.add_node(node)
    late: list[float] = []
    loaded = False

    def take() -> None:
        number = 0
        while not stop.is_set():
            with contextlib.suppress(SegzeroError):  # none came in time; the next request waits
                frame = inputs.frames.take(lambda: 0, 0.0, 0.5, stop, after=number)
                number = frame.number
                late.append((node.get_clock().now().nanoseconds - frame.stamp) / 1e6)

    threads = [threading.Thread(target=work) for work in (executor.spin, take)] if takes else []
    for thread in threads:
        thread.start()
    say(ready=True)
    for _ in sys.stdin:
        if not takes:  # nor does anything else in this process: it is the middleware's own cost
            inputs.look()
            while news := states.handle.take_message(State, False):
                loaded = news[0].state == State.READY
        ends = node.get_subscriptions_info_by_topic(topic)
        say(
            publishers=node.count_publishers(topic),
            # two while one replaces the other
            qualities=[e.qos_profile.reliability.name for e in ends if e.node_name == "receiver"],
            count=inputs.frames.count,
            late=late[-case.frames :],
            loaded=loaded,
        )
    stop.set()
    executor.shutdown()
    for thread in threads:
        thread.join()
    inputs.close()
    node.destroy_node()
    rclpy.try_shutdown()


# -- what starts, asks and counts


class Child:
    """A process that answers a line with a line of JSON."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.errors: list[str] = []
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        stderr: IO[str] | None = self.process.stderr
        assert stderr is not None
        self.errors.extend(stderr)

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"a process ended: {''.join(self.errors[-5:])}")

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def ask(self, line: str = "") -> dict[str, Any]:
        self.tell(line)
        return self.hear()

    def close(self) -> None:
        """The child ends by itself when nothing more can be asked."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def terminate(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    @property
    def seconds(self) -> float:
        """Of a core, since the process began."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(role: str, case: Case) -> Child:
    environment = dict(os.environ)
    if case.profile:
        environment |= dict.fromkeys(DDS_VARIABLES, case.profile)
    child = Child([sys.executable, __file__, "--role", role, "--case", json.dumps(asdict(case))], environment)
    child.hear()
    return child


def until(right: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not right():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


def settle(case: Case, child: Child) -> None:
    """Waits until the receiver listens as it will, so that what is counted from here on can arrive."""
    wanted = ["RELIABLE" if case.reliable else "BEST_EFFORT"]

    def listens() -> bool:
        said = child.ask()
        return bool(said["publishers"] == 1 and said["qualities"] == wanted)

    until(listens, PATIENCE, "the receiver follows the camera")
    time.sleep(SETTLED)
    until(listens, PATIENCE, "the receiver follows the camera")


def settled_count(child: Child) -> int:
    """Frames that have come, once no more come."""
    count, since = child.ask()["count"], time.monotonic()
    while time.monotonic() < since + QUIET:
        time.sleep(0.1)
        if (now := child.ask()["count"]) != count:
            count, since = now, time.monotonic()
    return int(count)


def measure(case: Case) -> Row:
    with contextlib.ExitStack() as running:

        def begin(role: str) -> Child:
            child = start(role, case)
            running.callback(child.close)
            return child

        order = ("receiver", "camera") if case.first == "node" else ("camera", "receiver")
        children = {role: begin(role) for role in order}
        hears, sees = children["receiver"], children["camera"]
        settle(case, hears)
        sees.ask()
        before = settled_count(hears)
        said = sees.ask(str(case.frames))
        arrived = settled_count(hears) - before
        late = hears.ask()["late"][-arrived:] if arrived else []
    return Row(case, said["sent"], arrived, said["achieved"], said["size"], median(late) if late else 0.0)


def measure_idle(seconds: float, rounds: int) -> Idle:
    """The real node, idle, beside a process with the same subscription that never takes."""
    case = Case("1080p", 30, first="node", frames=round(30 * seconds))
    settings = ("--params-file", str(ROOT / "config" / "demo.yaml"), "-p", f"image_topic:={TOPIC}")
    idle = Idle()
    with contextlib.ExitStack() as running:
        other = start("bystander", case)
        running.callback(other.close)
        node = Child([sys.executable, "-m", "segzero_ros", "--ros-args", *settings], dict(os.environ))
        running.callback(node.terminate)
        processes = {"the node": node, "never takes": other}
        until(lambda: other.ask()["loaded"], 4 * PATIENCE, "the node is ready")
        time.sleep(5.0)

        def watch(into: dict[str, list[float]], work: Callable[[], Any]) -> Any:
            began, before = time.monotonic(), {name: p.seconds for name, p in processes.items()}
            result = work()
            took = time.monotonic() - began
            for name, process in processes.items():
                into.setdefault(name, []).append(100 * (process.seconds - before[name]) / took)
            return result

        watch(idle.without, lambda: time.sleep(seconds))
        sees = start("camera", case)
        running.callback(sees.close)
        settle(case, other)
        sees.ask()
        for _ in tqdm(range(rounds), desc="idle cost", unit="round"):
            time.sleep(1.0)
            said = watch(idle.beside, lambda: sees.ask(str(case.frames)))
            watch(idle.without, lambda: time.sleep(seconds / 2))
            idle.achieved.append(said["achieved"])
    return idle


# -- the tables


def words(case: Case) -> str:
    return ", ".join(
        (
            f"{case.size} {case.rate} Hz {'jpeg' if case.compressed else 'rgb8'}",
            "reliable" if case.reliable else "best effort",
            "profile" if case.profile else "default",
            f"{case.first} first",
        )
    )


def shown(row: Row) -> str:
    slow = "" if row.achieved > 0.95 * row.case.rate else f" at {row.achieved:.0f} Hz"
    return f"{row.arrived} of {row.sent}{slow}"


def table(rows: Sequence[Row]) -> str:
    """One table for each boot order: a line for size, form and rate; a column for reliability and transport."""
    titles = {"node": "The node first, the camera after it", "camera": "The camera first"}
    columns = list(itertools.product((True, False), (False, True)))
    heads = [f"{'reliable' if r else 'best effort'}, {'profile' if p else 'default'}" for r, p in columns]
    text = ""
    for first, title in titles.items():
        lines: dict[tuple[str, bool, int], dict[tuple[bool, bool], Row]] = {}
        for row in rows:
            c = row.case
            if c.first == first:
                lines.setdefault((c.size, c.compressed, c.rate), {})[c.reliable, bool(c.profile)] = row
        if not lines:
            continue
        text += f"\n{title}:\n\n| size | form | MB | Hz | " + " | ".join(heads) + " |\n" + "|---" * 8 + "|\n"
        for (size, compressed, rate), cells in lines.items():
            form, megabytes = "jpeg" if compressed else "rgb8", next(iter(cells.values())).size / 1e6
            found = [shown(cells[c]) if c in cells else "" for c in columns]
            text += f"| {size} | {form} | {megabytes:.1f} | {rate} | " + " | ".join(found) + " |\n"
    return text


def idle_table(idle: Idle) -> str:
    text = "\n| process | no camera | 1080p 30 Hz, reliable |\n|---|---|---|\n"
    for name in idle.beside:
        text += f"| {name} | {median(idle.without[name]):.1f} % | {spread(idle.beside[name])} |\n"
    above = [a - b for a, b in zip(idle.beside["the node"], idle.beside["never takes"], strict=True)]
    return text + f"| the node above it | | {spread(above)} |\n"


def spread(values: Sequence[float]) -> str:
    return f"{median(values):.1f} % ({min(values):.1f} to {max(values):.1f})"


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = []
    for package in ("ros-rclpy", "ros-rmw-fastrtps-cpp", "ros-fastrtps", "ros-fastdds"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package.removeprefix('ros-')} {version(package)}")
    cpu = names[0] if names else platform.machine()
    return f"{date.today()}; {len(os.sched_getaffinity(0))} cores of {cpu}, Python {platform.python_version()}, " + (
        ", ".join(found) + f"; load {os.getloadavg()[0]:.1f} before"
    )


def write(page: Path, name: str, text: str) -> None:
    """Replaces what is between the page's markers."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = page.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page} has no {begin} ... {end}")
    page.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rates", nargs="+", type=int, default=[10, 30], help="Hz")
    parser.add_argument("--seconds", type=float, default=3.0, help="of frames in each row")
    parser.add_argument(
        "--order", choices=("node", "camera", "both"), default="both", help="which process starts first"
    )
    parser.add_argument("--forms", nargs="+", choices=("rgb8", "jpeg"), default=["rgb8", "jpeg"])
    parser.add_argument("--profile", type=Path, default=PROFILE, help="another one than the package's")
    parser.add_argument("--depth", type=int, default=0, help="of the receiver's history, instead of the node's own")
    parser.add_argument("--history", type=int, default=Case.history, help="depth of the camera's history")
    parser.add_argument(
        "--idle-rounds", type=int, default=3, help="windows of the idle cost, 10 s each; 0 leaves it out"
    )
    parser.add_argument("--json", type=Path, help="a file for all that was measured")
    parser.add_argument("--page", type=Path, help="a page with markers, whose tables are written anew")
    parser.add_argument("--role", choices=("camera", "receiver", "bystander"), help=argparse.SUPPRESS)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        case = Case(**arguments.case)
        return camera(case) if arguments.role == "camera" else receiver(case, arguments.role == "receiver")
    closed.close(os.environ)
    print(where := machine())
    orders = ("node", "camera") if arguments.order == "both" else (arguments.order,)
    cases = [
        Case(
            size,
            rate,
            reliable,
            profile,
            form == "jpeg",
            first,
            round(rate * arguments.seconds),
            arguments.history,
            arguments.depth,
        )
        for first, size, form, rate, reliable, profile in itertools.product(
            orders, arguments.sizes, arguments.forms, arguments.rates, (True, False), ("", str(arguments.profile))
        )
    ]
    rows = []
    for case in tqdm(cases, desc="frames", unit="row"):
        try:
            rows.append(measure(case))
        except RuntimeError as error:  # the table has a gap there, and the other rows
            tqdm.write(f"{words(case)}: {error}")
        else:
            tqdm.write(f"{words(case)}: {shown(rows[-1])}, {rows[-1].late:.0f} ms late")
    idle = measure_idle(10.0, arguments.idle_rounds) if arguments.idle_rounds else None
    print(table(rows) + (idle_table(idle) if idle else ""))
    if arguments.json:
        said = {"where": where, "rows": [asdict(row) for row in rows], "idle": asdict(idle) if idle else None}
        arguments.json.write_text(json.dumps(said, indent=1) + "\n")
    if arguments.page:
        write(arguments.page, "frames", f"{where}.\n{table(rows)}")
        if idle:
            write(arguments.page, "idle", f"{where}.\n{idle_table(idle)}")
    return None


if __name__ == "__main__":
    main()
