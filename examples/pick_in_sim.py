"""A pick in simulation, judged by physics: words in, a node's 3D answer, a top-down grasp, a lift. `make pick` runs it.

PyBullet's arm at the tabletop; its rendered RGB-D camera streams into the real node, the instruction goes by the action
~/ask, and the answer's upright box is grasped. Each scene is tried again with the true mask: that is the bound.
Every scene is one line of records.jsonl, so that a run that was stopped goes on; the figures are made from the lines.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
from tqdm import tqdm

import closed
from pick.score import Record, read_record

if TYPE_CHECKING:
    from pick.answers import Ask

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"1280x720": (1280, 720), "960x960": (960, 960)}


def read_records(path: Path) -> list[Record]:
    """Whole lines; what a killed run left half written is dropped."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            records.append(read_record(json.loads(line)))
    return records


@contextlib.contextmanager
def asker(how: str, out: Path) -> Iterator[Ask]:
    if how == "node":
        from pick.node import asking_node

        with asking_node(out / "node.log") as ask:
            yield ask
    else:
        from pick.answers import ask_in_process

        yield ask_in_process()


def run(arguments: argparse.Namespace) -> None:
    from pick.page import picture_name
    from pick.pictures import draw_outcome
    from pick.trial import NOISES, Cell

    out, seed = arguments.out, arguments.seed
    lines, pictures = out / "records.jsonl", out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    if not arguments.resume:
        lines.unlink(missing_ok=True)
    records = read_records(lines)
    if any(r.asked != arguments.ask for r in records):
        raise SystemExit(
            f"{lines} has answers of the {records[0].asked}: name another folder by --out, or go without --resume"
        )
    lines.write_text("".join(json.dumps(asdict(r)) + "\n" for r in records))
    noises = NOISES if arguments.noise == "both" else (arguments.noise,)
    done = {(r.size, r.noise, r.seed, r.scene) for r in records}
    todo = [
        (size, number, left)
        for size in arguments.size
        for number in range(arguments.first, arguments.first + arguments.scenes)
        if (left := tuple(n for n in noises if (size, n, seed, number) not in done))
    ]
    if not todo:
        return
    with asker(arguments.ask, out) as ask, lines.open("a") as file, tqdm(todo, unit="scene") as bar:
        cell, tries, lifted = Cell(), 0, 0
        for size, number, left in bar:
            bar.set_description(size)
            scene = cell.lay(seed, number, *SIZES[size])
            for outcome in cell.run(scene, ask, left, arguments.ask):
                record = outcome.record
                file.write(json.dumps(asdict(record)) + "\n")
                file.flush()
                picture = cv2.resize(
                    draw_outcome(outcome)[:, :, ::-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA
                )
                cv2.imwrite(str(pictures / picture_name(record)), picture)
                tries, lifted = tries + record.reachable, lifted + (record.reachable and record.answer.lifted)
                bar.set_postfix_str(f"lifted {lifted} of {tries}")


def film(arguments: argparse.Namespace) -> None:
    from pick.pictures import Film
    from pick.trial import Cell

    with asker(arguments.ask, arguments.out) as ask:
        cell = Cell()
        scene = cell.lay(arguments.seed, arguments.film, *SIZES[arguments.size[0]])
        made = Film(cell, scene)
        cell.film = made.tick
        for outcome in cell.run(scene, ask, ("exact",), arguments.ask):
            made.write(arguments.out / "pick.gif", outcome)
            print(outcome.record)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first scene")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["1280x720"])
    parser.add_argument("--noise", choices=("exact", "noisy", "both"), default="both", help="of the depth image")
    parser.add_argument("--ask", choices=("node", "process"), default="node", help="who answers")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "pick")
    parser.add_argument("--resume", action="store_true", help="go on with records.jsonl instead of beginning anew")
    parser.add_argument("--film", type=int, metavar="SCENE", help="only this scene, as pick.gif")
    parser.add_argument(
        "--page", type=Path, help="a folder that gets results.json and README.md too, such as docs/pick"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    closed.close(os.environ)  # before rclpy is imported
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the node ends too
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # `training` has the tabletop
    try:
        if arguments.film is not None:
            film(arguments)
            return 0
        run(arguments)
    except KeyboardInterrupt:
        print("\nstopped; the same with --resume goes on", file=sys.stderr)
        return 130
    from pick.page import print_table, summarise_all, write_page

    records = read_records(arguments.out / "records.jsonl")
    results = summarise_all(records)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print_table(results)
    if arguments.page:
        write_page(arguments.page, records, arguments.out / "pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
