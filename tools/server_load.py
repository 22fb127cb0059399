"""Many robots, one server: what 1 to 100 clients of one process get from a reasoner by URL, and where it is full.

    python tools/server_load.py --out build/server-load            # a scripted server that answers at once
    python tools/server_load.py --out build/server-load --vllm     # a real vLLM on the CPU, see `make test-vllm`
    python tools/server_load.py --out build/server-load --figure docs/pictures/server-load.svg   # what is there, drawn

Each client asks, waits for the whole answer and asks again, for some seconds. Every answer is compared with that of the
same picture and words when they were asked alone: another question's is "crossed", any other text "changed", and
whatever raises is "lost". The scripted server measures the adapter itself (encoding, sending, reading, one process's
lock), also with answers that take half a second, as those of a GPU that is not full yet.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from segzero_ros.core.contract import Image, SegzeroError  # noqa: E402
from segzero_ros.core.geometry import square_image  # noqa: E402
from segzero_ros.core.profile import Profile  # noqa: E402
from segzero_ros.core.prompt import build_prompt  # noqa: E402
from segzero_ros.models.reasoner_server import ServerReasoner, load_server_reasoner  # noqa: E402
from segzero_ros.profiles import load_profile  # noqa: E402

CLIENTS = (1, 2, 4, 8, 16, 32, 64, 100)
QUESTIONS = 32
MORE = 1.25  # times the answers a second, or the server is full
DEMO = load_profile("demo")
# Of the published checkpoints' size, which the scripted server counts like.
LARGE = replace(DEMO, reasoner="http://localhost/v1", square=840, prompt="{question}", max_new_tokens=64)
SMALL = replace(LARGE, square=224)


@dataclass(frozen=True)
class Question:
    square: Image
    prompt: str


@dataclass(frozen=True)
class Row:
    """Of one number of clients. p50, p90: seconds of an answer; per_second: answers; cpu: this process's own, each."""

    clients: int
    answers: int
    p50: float
    p90: float
    per_second: float
    cpu: float
    lost: int = 0
    crossed: int = 0
    changed: int = 0


class Tally:
    """What the clients found; thread-safe."""

    def __init__(self, answers: Sequence[str]) -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self.seconds: list[float] = []
        self.lost = self.crossed = self.changed = 0

    def add(self, number: int, text: str | None, seconds: float) -> None:
        """text: of question `number`; None: lost."""
        with self._lock:
            if text is None:
                self.lost += 1
                return
            self.seconds.append(seconds)
            if text != self._answers[number]:
                crossed = text in self._answers
                self.crossed += crossed
                self.changed += not crossed


def measure(
    robots: Sequence[ServerReasoner], questions: Sequence[Question], answers: Sequence[str], seconds: float
) -> Row:
    """All of them at once; none is asked again after those seconds, and what was asked is waited for."""
    tally, start = Tally(answers), threading.Barrier(len(robots) + 1)
    end = [0.0]

    def drive(client: int) -> None:
        start.wait()
        number = client
        while (began := time.perf_counter()) < end[0]:
            number = (number + 1) % len(questions)
            text = _ask(robots[client], questions[number])
            tally.add(number, text, time.perf_counter() - began)

    with ThreadPoolExecutor(len(robots)) as pool:
        drives = [pool.submit(drive, client) for client in range(len(robots))]
        began, cpu = time.perf_counter(), time.process_time()
        end[0] = began + seconds
        start.wait()
        for one in drives:
            one.result()
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    count = len(tally.seconds)
    p50, p90 = (float(np.quantile(tally.seconds, q)) if count else float("nan") for q in (0.5, 0.9))
    return Row(
        len(robots), count, p50, p90, count / took, cpu / max(1, count), tally.lost, tally.crossed, tally.changed
    )


def _ask(robot: ServerReasoner, question: Question) -> str | None:
    try:
        return robot.generate([question.square], [question.prompt])[0].text
    except SegzeroError as error:
        print(f"lost: {error.message}", file=sys.stderr)
        return None


def curve(
    profile: Profile, url: str, questions: Sequence[Question], clients: Sequence[int], seconds: float, *, shared: bool
) -> list[Row]:
    """shared: one adapter for all threads, as in one node; else each has loaded its own."""
    one = load_server_reasoner(profile, url)
    answers = [str(_ask(one, question)) for question in questions]
    rows = []
    for count in clients:
        robots = [one] * count if shared else [load_server_reasoner(profile, url) for _ in range(count)]
        rows.append(measure(robots, questions, answers, seconds))
        print(json.dumps(asdict(rows[-1])), flush=True)
    return rows


def tabletop(count: int, folder: Path) -> list[tuple[Image, str]]:
    """Rendered pictures and instructions of the test split."""
    from training.data.tabletop.evaluation import questions
    from training.data.tabletop.store import Scenes, render_split

    scenes = Scenes(render_split(folder, "test", count, workers=1))
    return [(np.asarray(scenes.rgb(q.scene)), q.item.text) for q in questions(scenes, count, 0, ood=False)]


@contextmanager
def scripted() -> Iterator[str]:
    """Its address; behind it how many wait for one another, and milliseconds of a piece."""
    from tests.servers.process import served

    with served("echo") as address:
        yield address


@contextmanager
def vllm(weights: Path, log: Path) -> Iterator[str]:
    """Without its caches: robots ask about frames that it has not seen."""
    from tests.servers import real_vllm

    with real_vllm.serving(weights, log, "--no-enable-prefix-caching", "--mm-processor-cache-gb", "0") as address:
        yield f"{address}/v1"


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as work:
        asked = tabletop(QUESTIONS, Path(work))

        def ask(profile: Profile) -> list[Question]:
            return [Question(square_image(p, profile.square), build_prompt(profile, words)) for p, words in asked]

        if arguments.vllm:
            with vllm(arguments.weights.resolve(), arguments.out.resolve() / "vllm.log") as url:
                for name, shared in (("vLLM, one adapter", True), ("vLLM, an adapter each", False)):
                    write(arguments, name, DEMO, url, ask(DEMO), shared)
            return
        with scripted() as address:
            for name, profile, pause, shared in (
                ("scripted, at once, 840 pixels, one adapter", LARGE, 0, True),
                ("scripted, at once, 840 pixels, an adapter each", LARGE, 0, False),
                ("scripted, at once, 224 pixels, one adapter", SMALL, 0, True),
                ("scripted, half a second, 840 pixels, one adapter", LARGE, 12, True),
            ):
                write(arguments, name, profile, f"{address}/1/{pause}/v1", ask(profile), shared)


def write(
    arguments: argparse.Namespace, name: str, profile: Profile, url: str, questions: list[Question], shared: bool
) -> None:
    print(f"== {name}", flush=True)
    load = os.getloadavg()[0]
    rows = curve(profile, url, questions, arguments.clients, arguments.seconds, shared=shared)
    whole = {
        "name": name,
        "date": str(date.today()),
        "machine": f"{os.cpu_count()} cores of {_processor()}, Python {platform.python_version()}",
        "load_before": round(load, 1),
        "seconds": arguments.seconds,
        "rows": [asdict(row) for row in rows],
    }
    (arguments.out / f"{name.replace(', ', '-').replace(' ', '-')}.json").write_text(json.dumps(whole, indent=1) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def saturation(rows: Sequence[dict[str, Any]]) -> int:
    """The fewest clients beyond which the next number of them brings less than a quarter more answers a second."""
    for row, more in itertools.pairwise(rows):
        if more["per_second"] < MORE * row["per_second"]:
            return int(row["clients"])
    return int(rows[-1]["clients"])


def table(found: Sequence[dict[str, Any]]) -> str:
    """A column for each curve, a row for each number of clients."""
    rows = [one["rows"] for one in found]
    head = ["clients", *(one["name"] for one in found)]
    lines = [head, ["---"] * len(head)]
    lines += [[str(line[0]["clients"]), *map(cell, line)] for line in zip(*rows, strict=True)]
    lines.append(["full with", *(str(saturation(r)) for r in rows)])
    lines.append(["times one client's, at most", *(f"{_most(r) / r[0]['per_second']:.1f}" for r in rows)])
    wrong = [[sum(row[k] for row in r) for k in ("answers", "lost", "crossed", "changed")] for r in rows]
    lines.append(["answers; lost, crossed, changed", *(f"{w[0]}; {w[1]}, {w[2]}, {w[3]}" for w in wrong)])
    lines.append(["CPU of the clients' process, ms", *(f"{1000 * np.mean([x['cpu'] for x in r]):.0f}" for r in rows)])
    lines.append(["load of the machine before", *(str(one["load_before"]) for one in found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(row: dict[str, Any]) -> str:
    return f"{row['per_second']:.1f}/s, {1000 * row['p50']:.0f} ({1000 * row['p90']:.0f}) ms"


def _most(rows: Sequence[dict[str, Any]]) -> float:
    return max(float(row["per_second"]) for row in rows)


def figure(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Answers a second, and how long one takes, against the clients."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    canvas, (rate, wait) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for colour, one in enumerate(found):
        rows = one["rows"]
        clients = [r["clients"] for r in rows]
        rate.plot(clients, [r["per_second"] for r in rows], marker="o", ms=3, color=f"C{colour}", label=one["name"])
        wait.plot(clients, [r["p50"] for r in rows], marker="o", ms=3, color=f"C{colour}")
        wait.fill_between(clients, [r["p50"] for r in rows], [r["p90"] for r in rows], color=f"C{colour}", alpha=0.2)
    for axes, title in ((rate, "answers per second"), (wait, "seconds of an answer (p50 to p90)")):
        ticks = [r["clients"] for r in found[0]["rows"]]
        axes.set(xscale="log", yscale="log", xlabel="clients at once", title=title)
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    canvas.legend(loc="outside lower center", ncols=3, fontsize=8)
    canvas.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder for figures as JSON, one file a curve")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each number of clients")
    parser.add_argument("--vllm", action="store_true", help="a real vLLM instead of the scripted server")
    parser.add_argument(
        "--weights", type=Path, default=ROOT / "segzero_ros" / "weights" / "reasoner", help="that it serves"
    )
    parser.add_argument("--figure", type=Path, help="only draw what is in the folder, and print its tables")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.figure:
        found = read(arguments.out)
        figure(found, arguments.figure)
        print(table(found))
    else:
        run(arguments)


if __name__ == "__main__":
    main()
