"""Renders the splits to disk in shards and reads them back.

A shard NNNNN is three files: `_rgb.npy` (n, S, S, 3) uint8, `_ids.npy` (n, S, S) uint8 (0 = no object,
i = object i) and `.json` (per scene: objects, camera matrix, camera pose), and `_depth.npy` (n, S, S)
float16 metres where depth was asked for. The .json is written last, so a shard is whole or absent, and
each shard's generator is seeded by split and number: a killed run continues, and any shard can be made again alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.data.tabletop.scene import MAX_OBJECTS, SIZE, World, random_camera, random_light

SHARD = 500  # scenes
SPLITS = {"train": 1, "val": 2, "test": 3, "test-ood": 4, "tune": 5}  # the split's part of the seed; tune: as train
MIN_AREA = 60  # pixels; with less in sight an object is no target


@dataclass(frozen=True)
class Thing:
    """One object of a stored scene as it is seen. box: XYXY pixels, exclusive edges; distance: metres to the camera."""

    id: int
    category: str
    color: str
    box: tuple[int, int, int, int]
    area: int
    distance: float
    point: tuple[int, int]  # inside its mask: the middle of the box where that is inside, else the deepest pixel


class Scenes:
    """A split on disk, memory-mapped. Only whole shards are seen."""

    def __init__(self, folder: Path | str, limit: int | None = None) -> None:
        self.folder = Path(folder)
        self.names = [path.stem for path in sorted(self.folder.glob("[0-9]*.json"))]
        if not self.names:
            raise FileNotFoundError(
                f"no scenes in {self.folder}: render them with `python -m training.data.tabletop.store`"
            )
        self._rgb = [np.load(self.folder / f"{name}_rgb.npy", mmap_mode="r") for name in self.names]
        self._ids = [np.load(self.folder / f"{name}_ids.npy", mmap_mode="r") for name in self.names]
        self.records: list[dict[str, Any]] = []
        self._where: list[tuple[int, int]] = []
        for shard, name in enumerate(self.names):
            records = json.loads((self.folder / f"{name}.json").read_text())
            self.records += records
            self._where += [(shard, row) for row in range(len(records))]
        if limit:
            self.records, self._where = self.records[:limit], self._where[:limit]

    def __len__(self) -> int:
        return len(self.records)

    def rgb(self, index: int) -> NDArray[np.uint8]:
        shard, row = self._where[index]
        return self._rgb[shard][row]

    def ids(self, index: int) -> NDArray[np.uint8]:
        shard, row = self._where[index]
        return self._ids[shard][row]

    def things(self, index: int) -> list[Thing]:
        """Every object that has a pixel in sight, in the order of its id."""
        return [
            Thing(o["id"], o["category"], o["color"], tuple(o["box"]), o["area"], o["distance"], tuple(o["point"]))
            for o in self.records[index]["objects"]
        ]


def describe(ids: NDArray[np.uint8]) -> dict[int, dict[str, Any]]:
    """Box, area and point of every object in an instance mask (S, S)."""
    import cv2

    seen = {}
    for i in range(1, MAX_OBJECTS + 1):
        mask = ids == i
        area = int(np.count_nonzero(mask))
        if not area:
            continue
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
        x, y = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
        if not mask[y, x]:
            deep = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
            y, x = (int(v) for v in np.unravel_index(int(deep.argmax()), deep.shape))
        seen[i] = {"box": box, "area": area, "point": (x, y)}
    return seen


def _whole(folder: Path, number: int, size: int) -> bool:
    """Whether a shard is on disk with at least `size` scenes: a smaller run may have left a shorter one."""
    records = folder / f"{number:05d}.json"
    return records.exists() and len(json.loads(records.read_text())) >= size


def render_shard(folder: Path, split: str, number: int, size: int, depth: bool) -> None:
    """Writes one shard unless it is there already."""
    name = f"{number:05d}"
    if _whole(folder, number, size):
        return
    rng = np.random.default_rng([SPLITS[split], number])
    ood = split == "test-ood"
    rgb = np.zeros((size, SIZE, SIZE, 3), np.uint8)
    ids = np.zeros((size, SIZE, SIZE), np.uint8)
    depths = np.zeros((size, SIZE, SIZE), np.float16) if depth else None
    records = []
    world = World()
    for row in range(size):
        world.populate(rng, ood=ood)
        camera = random_camera(rng, ood=ood)
        frame = world.render(camera, random_light(rng))
        rgb[row], ids[row] = frame.rgb, frame.ids
        if depths is not None:
            depths[row] = frame.depth
        pose = camera.pose()
        seen = describe(frame.ids)
        objects = [
            {
                **asdict(thing),
                **seen[thing.id],
                "distance": round(float(np.linalg.norm(np.array(thing.position) - pose[:3, 3])), 4),
            }
            for thing in world.objects
            if thing.id in seen
        ]
        records.append({"objects": objects, "camera": camera.matrix(SIZE).tolist(), "pose": np.round(pose, 6).tolist()})
    world.close()
    arrays = {"_rgb.npy": rgb, "_ids.npy": ids} | ({"_depth.npy": depths} if depths is not None else {})
    for suffix, array in arrays.items():
        np.save(folder / f"{name}{suffix}", array)
    part = folder / f"{name}.part"
    part.write_text(json.dumps(records))
    part.replace(folder / f"{name}.json")


def _job(arguments: tuple[Path, str, int, int, bool]) -> None:
    render_shard(*arguments)


def render_split(
    root: Path, split: str, scenes: int, *, workers: int = 0, depth: bool = False, shard: int = SHARD
) -> Path:
    """Makes sure that at least `scenes` scenes of a split are on disk; returns its folder."""
    folder = Path(root) / split
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder, split, n, min(shard, scenes - n * shard), depth) for n in range(-(-scenes // shard))]
    todo = [job for job in jobs if not _whole(folder, job[2], job[3])]
    if todo:
        # PyBullet keeps its state in the process: fresh interpreters, one shard after another.
        with multiprocessing.get_context("spawn").Pool(workers or os.cpu_count() or 1) as pool:
            for _ in tqdm(pool.imap_unordered(_job, todo), total=len(todo), desc=f"render {split}", unit="shard"):
                pass
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the simulated tabletop.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--split", choices=SPLITS, required=True)
    parser.add_argument("--scenes", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 = one per core")
    parser.add_argument("--depth", action="store_true", help="store depth too")
    arguments = parser.parse_args()
    render_split(arguments.root, arguments.split, arguments.scenes, workers=arguments.workers, depth=arguments.depth)


if __name__ == "__main__":
    main()
