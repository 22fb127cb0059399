"""How much memory the masks of many objects take, and how long, as one line of JSON.

    python tools/masks_memory.py --objects 254 --height 2160 --width 3840

peak_gb: anonymous memory at its highest, above what there was with the model loaded and one object segmented.
kept_gb: what the masks of the answer take.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from segzero_ros.core.contract import Candidate
from segzero_ros.core.steps import SegmentingStep
from segzero_ros.models.segmenter_transformers import load_segmenter
from segzero_ros.profiles import load_profile


def anonymous() -> float:
    """GB of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024 / 1e9


class Peak(threading.Thread):
    """Looks at the memory every few milliseconds until `end` is set."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest, self.end = anonymous(), threading.Event()

    def run(self) -> None:
        while not self.end.wait(0.002):
            self.highest = max(self.highest, anonymous())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--segmenter", help="a folder or a hub's name (default: the profile's)")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--objects", type=int, default=254)
    parser.add_argument("--height", type=int, default=2160)
    parser.add_argument("--width", type=int, default=3840)
    a = parser.parse_args()
    profile = load_profile(a.profile)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (a.height, a.width, 3), np.uint8)
    corners = rng.uniform(0, 1, (a.objects, 2, 2)) * (a.width, a.height)
    boxes = [(*c.min(0).tolist(), *(c.max(0) + 1).tolist()) for c in corners]
    candidates = tuple(Candidate((b[0], b[1], b[2], b[3]), ()) for b in boxes)
    step = SegmentingStep(load_segmenter(profile, a.segmenter), profile)
    step.run(image, candidates[:1], "", on_event=lambda event: None)
    before, began, peak = anonymous(), time.perf_counter(), Peak()
    peak.start()
    instances = step.run(image, candidates, "", on_event=lambda event: None)
    seconds = time.perf_counter() - began
    peak.end.set()
    peak.join()
    found = {"objects": len(instances), "height": a.height, "width": a.width}
    found |= {"peak_gb": peak.highest - before, "kept_gb": sum(len(i.packed.bits) for i in instances) / 1e9}
    print(json.dumps({k: round(v, 3) for k, v in found.items()} | {"seconds": round(seconds, 2)}))


if __name__ == "__main__":
    main()
