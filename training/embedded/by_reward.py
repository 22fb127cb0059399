"""The embedded reasoner goes on by reward: GRPO on instructions of all kinds over scenes that it has not seen.

    python -m training.embedded.by_reward --data SCENES --start segzero_ros/weights/reasoner --out DIR

The kinds that the supervised model gets wrong are asked more often: where all samples are right, nothing is learnt.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.data.tabletop import instructions
from training.data.tabletop.instructions import KINDS, prompt_text
from training.data.tabletop.store import Scenes, render_split

ASKED = (*KINDS, "spatial", "spatial", "superlative", "several", "several", "negation", "negation")
ABSENT = 0.25  # share that nothing matches
TUNE = 2000  # scenes
TRIES = 5000  # scenes that are looked at for one instruction


def write_rows(scenes: Scenes, count: int, seed: int, out: Path, kinds: Sequence[str] = ASKED) -> None:
    """Rows for `segzero-train train`: boxes and points of the scenes' own, as the model was taught them.

    Raises ValueError where the scenes hold nothing to ask for.
    """
    import datasets
    from PIL import Image

    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    while len(rows) < count:
        # Both are drawn once: redrawn with every try, what is easily written would be asked more often.
        kind, absent = kinds[int(rng.integers(len(kinds)))], float(rng.random() < ABSENT)
        tries = (int(rng.integers(len(scenes))) for _ in range(TRIES))
        written = ((n, instructions.write(rng, scenes.things(n), [kind], absent)) for n in tries)
        scene, item = next(((n, i) for n, i in written if i is not None), (0, None))
        if item is None:
            raise ValueError(f"no scene in {scenes.folder} decides an instruction of the kind {kind}")
        image = np.ascontiguousarray(scenes.rgb(scene))
        rows.append(
            {
                "id": f"{len(rows):05d}-{kind}",
                "problem": prompt_text(item.text),
                "solution": json.dumps([{"bbox_2d": list(t.box), "point_2d": list(t.point)} for t in item.targets]),
                "completion": instructions.answer(item),
                "image": Image.fromarray(image),
                "img_height": image.shape[0],
                "img_width": image.shape[1],
            }
        )
    text, number = datasets.Value("string"), datasets.Value("int64")
    features = dict.fromkeys(("id", "problem", "solution", "completion"), text) | {"image": datasets.Image()}
    features |= dict.fromkeys(("img_height", "img_width"), number)
    datasets.Dataset.from_list(rows, datasets.Features(features)).save_to_disk(str(out))


def train(data: Path, supervised: Path, out: Path, *, seed: int = 0, updates: int = 0, prompts: int = 0) -> Path:
    """Goes on from a reasoner; returns the folder of what does best on `val`: a checkpoint, or what it began with.

    A killed run continues. updates, prompts: 0 = as configured.
    """
    from training.finetune import configuration, export
    from training.finetune import run as runs
    from training.finetune.logs import read_jsonl
    from training.finetune.prepared import rows_in

    changed = [f"trl.max_steps={updates}", "trl.warmup_steps=0.05"] if updates else []  # a share of them
    changed += [f"batch.prompts={prompts}", f"batch.micro={prompts * 8}", f"save_every={updates}"] if prompts else []
    places = [f"model.path={supervised}", f"data.train={out / 'rows'}", f"data.validation={out / 'rows_val'}"]
    c = configuration.load("demo_grpo", [*places, f"out={out / 'run'}", f"seed={seed}", *changed])
    needed = int(c.arguments["max_steps"]) * c.batch.prompts
    for split, name, count in (("tune", "rows", needed), ("val", "rows_val", min(needed, c.data.validation_rows))):
        if not (out / name / "state.json").exists():
            shutil.rmtree(out / name, ignore_errors=True)
            write_rows(Scenes(data / split), count, seed, out / name)
    if runs.run(c, resume=(out / "run" / "configuration.yaml").is_file()):
        raise RuntimeError(f"stopped early: {(out / 'run' / 'stopped.json').read_text()}")
    won = {r["step"]: r["eval_reward"] for r in read_jsonl(out / "run" / "log.jsonl") if "eval_reward" in r}
    best = max(won, key=lambda step: (won[step], -step))
    rows = len(rows_in(str(out / "rows_val")))
    print(f"on {rows} rows of val: {won[0]:.4f} before, {won[best]:.4f} after {best} updates")
    if best == 0:
        return supervised
    shutil.rmtree(out / "model", ignore_errors=True)
    return export.export(out / "run", out / "model")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="where scenes are kept; tune and val are used")
    parser.add_argument("--start", type=Path, required=True, help="the supervised reasoner")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(argv)
    for split, scenes in (("tune", TUNE), ("val", 1000)):
        render_split(a.data, split, scenes)
    print(train(a.data, a.start, a.out, seed=a.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
