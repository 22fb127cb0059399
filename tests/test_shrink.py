"""A rehearsal on one's own rows opens them, learns from them, and meets what the real run would meet."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from training import cli
from training.finetune import logs
from training.finetune import run as train
from training.finetune.configuration import load
from training.finetune.prepared import rows_in
from training.finetune.shrink import make_rows, shrunk

pytestmark = pytest.mark.usefixtures("one_thread")


def rows(name: str, folder: Path, change: Any = None, times: int = 5) -> Path:
    """A folder as `segzero-train prepare` leaves it, at the configuration's size; `change` is made to the fourth row.
    Instructions are this test's own."""
    c = load(name)
    make_rows(c, folder / "made", c.data.square)
    made = rows_in(str(folder / "made"))
    many = [dict(row, id=f"mine-{n}-{row['id']}", problem="the one on the left") for n in range(times) for row in made]
    if change:
        many[3] |= change
    datasets.Dataset.from_list(many, features=made.features).save_to_disk(str(folder / "mine"))
    return folder / "mine"


@pytest.mark.parametrize("name", ["lora_3b_24gb", "seg_zero_3b_sft", "vision_reasoner_7b", "star_lora_7b"])
def test_own_rows_are_what_two_updates_learn_from(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = rows(name, tmp_path), tmp_path / "run"
    call = ["--set", f"data.train={mine}", "--set", f"data.validation={mine}", "--set", "pictures=false"]
    assert train.main([name, "--shrink", "--out", str(out), *call]) == 0
    said = capsys.readouterr()
    assert f"shrunk: rows: {mine}, as they are there; to validate on: {mine}, as they are there" in said.out
    assert "shrunk: data.train" not in said.out and "made-up" not in said.out
    assert "Traceback" not in said.err
    samples = logs.read_jsonl(out / "samples.jsonl")
    assert samples and all(s["id"].startswith("mine-") and s["problem"] == "the one on the left" for s in samples)
    assert {s["kind"] for s in samples} == ({"validation"} if name.endswith("sft") else {"training", "validation"})
    assert [r["step"] for r in logs.read_jsonl(out / "log.jsonl") if "loss" in r] == [1, 2]


def own_photos(folder: Path, answer: str) -> Path:
    """The rows that `segzero-train prepare` makes of a COCO folder: photos, an object in each."""
    rng = np.random.default_rng(7)
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    (folder / "photos").mkdir()
    for n, name in enumerate(("mug", "drill", "glove", "pallet")):
        data["categories"].append({"id": n + 1, "name": name})
        width, height = ((640, 480), (480, 640), (1280, 720))[n % 3]
        pixels = rng.integers(0, 90, (height, width, 3), np.uint8)
        left, top = 40 + 60 * n, 100 + 20 * n
        pixels[top : top + 150, left : left + 200] = rng.integers(120, 255, 3)
        Image.fromarray(pixels).save(folder / "photos" / f"{n}.jpg")
        data["images"].append({"id": n, "file_name": f"{n}.jpg", "width": width, "height": height})
        corners = [left, top, left + 200, top, left + 200, top + 150, left + 100, top + 90, left, top + 150]
        box = [left, top, 200, 150]
        annotation = {"id": n + 1, "image_id": n, "category_id": n + 1, "segmentation": [corners], "bbox": box}
        data["annotations"].append(annotation | {"area": 24000, "iscrowd": 0})
    (folder / "my.json").write_text(json.dumps(data))
    out = folder / "rows"
    call = ["prepare", "--coco", str(folder / "my.json"), "--images", str(folder / "photos"), "--form", answer]
    assert cli.main([*call, "--out", str(out), "--workers", "1"]) == 0
    return out


@pytest.mark.parametrize("name", ["seg_zero_3b", "vision_reasoner_7b", "seg_zero_3b_sft"])
def test_rows_that_prepare_made_of_own_photos_are_what_two_updates_learn_from(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = own_photos(tmp_path, load(name).data.answer), tmp_path / "run"
    settings = [f"data.train={rows}", f"data.validation={rows}", "batch.prompts=4", "hardware.gpus=1", "pictures=false"]
    call = [word for setting in settings for word in ("--set", setting)]
    assert cli.main(["train", name, "--shrink", "--out", str(out), *call]) == 0
    said = capsys.readouterr()
    assert f"shrunk: rows: {rows}, as they are there" in said.out and "Traceback" not in said.err
    samples = logs.read_jsonl(out / "samples.jsonl")
    assert samples and {s["problem"].removeprefix("the ") for s in samples} <= {"mug", "drill", "glove", "pallet"}
    learnt = [r for r in logs.read_jsonl(out / "log.jsonl") if "loss" in r]
    assert [r["step"] for r in learnt] == [1, 2] and all(math.isfinite(r["grad_norm"]) for r in learnt)


def test_rows_that_are_not_there_are_made_up_and_that_is_said(tmp_path: Path) -> None:
    mine = rows("tabletop_sft", tmp_path)
    train_alone = load("tabletop_sft", [f"data.train={mine}", "data.validation=nowhere"])
    small, said = shrunk(train_alone, tmp_path / "a")
    assert f"rows: {mine}, as they are there; to validate on: 4 made-up ones, since nowhere is not there" in said
    assert small.data.train == str(mine) and small.data.validation == str(tmp_path / "a" / "rows")
    _, said = shrunk(load("tabletop_sft", ["data.train=gone", "data.validation="]), tmp_path / "b")
    assert "rows: 4 made-up ones, since gone is not there" in said, "and none where none are configured"


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        ({"solution": "<box>(1,2)</box>"}, [], "1 rows cannot be trained on: row 3 "),
        ({"problem": "<|image_pad|>"}, [], "holds a special token's beginning"),
        ({"problem": " "}, [], "the problem is empty"),
        ({}, ["batch.prompts=32"], "has 20 rows, and an update takes 32"),
    ],
)
def test_what_the_real_run_would_refuse_is_refused(
    change: dict[str, str], settings: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = rows("seg_zero_3b", tmp_path, change)
    call = [x for s in [f"data.train={mine}", *settings] for x in ("--set", s)]
    assert train.main(["seg_zero_3b", "--shrink", *call]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("trl.max_steps=0", "max_steps is 0, which trains num_train_epochs"),
        ("seed=4294967296", "seed: Input should be less than 4294967296"),
        ("grpo.mask_truncated_completions=maybe", "expected true or false"),
        ("grpo.shuffle_dataset=5", "expected true or false"),
        ("trl.lr_scheduler_kwargs=5", "lr_scheduler_kwargs is '5'; expected a mapping"),
    ],
)
def test_settings_of_another_kind_are_refused_before_anything_is_loaded(
    setting: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for way in ("--dry-run", "--shrink"):
        assert train.main(["seg_zero_3b", way, "--set", setting]) == 2
        assert said in capsys.readouterr().err
