"""From nothing to an evaluated pair of models by one command; a killed run of the segmenter continues."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file

from training.data.tabletop.store import Scenes, render_shard
from training.embedded import by_reward, segmenter, train_reasoner
from training.rewards import PROFILES


@pytest.mark.long
def test_one_command_trains_and_evaluates(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "training.embedded.train_demo", "--smoke", "--out", str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for split in ("test", "test-ood"):
        summary = json.loads((tmp_path / f"{split}.json").read_text())
        assert summary["n"] == 16 and summary["failed"] == 0
        assert {"parse_ok", "box_acc", "giou", "no_target_acc", "sam_iou", "box_acc_ci"} <= set(summary)
        assert len((tmp_path / f"{split}.jsonl").read_text().splitlines()) == 16
        assert (tmp_path / f"{split}.png").stat().st_size > 1000
    for name in ("segmenter", "reasoner"):
        assert (tmp_path / name / "curves.png").exists()
        assert (tmp_path / name / "model" / "model.safetensors").exists()
    # Two updates of a model that knows nothing win nothing: what the reward run began with is kept.
    assert (tmp_path / "reward" / "run" / "checkpoint-2" / "model.safetensors").exists()
    assert not (tmp_path / "reward" / "model").exists()

    # What was trained is gone on with, the vision tower too.
    before = load_file(tmp_path / "reasoner" / "model" / "model.safetensors")
    settings = train_reasoner.Settings(
        data=str(tmp_path / "tabletop"),
        out=str(tmp_path / "more"),
        init=str(tmp_path / "reasoner" / "model"),
        vision_steps=0,
        joint_steps=2,
        images=2,
        settle=1,
        workers=1,
        smoke=True,
        compile=False,
    )
    more = load_file(train_reasoner.train(settings) / "model.safetensors")
    changed = [name for name in before if not torch.equal(before[name], more[name])]
    assert {"visual" in name for name in changed} == {True, False}, "both what sees and what speaks"


def test_what_the_reward_run_asks_is_won_by_the_right_answer(data: Path, tmp_path: Path) -> None:
    by_reward.write_rows(Scenes(data / "train"), 60, 0, tmp_path / "rows", kinds=("category", "several", "negation"))
    rows = datasets.load_from_disk(str(tmp_path / "rows"))
    won = PROFILES["segzero"].score(rows["completion"], rows["solution"], square=224)
    assert won == [PROFILES["segzero"].maximum] * 60
    absent = [json.loads(s) == [] for s in rows["solution"]]
    assert 0 < sum(absent) < 30
    assert {i.split("-")[1] for i in rows["id"]} == {"category", "several", "negation"}


def test_scenes_that_hold_nothing_to_ask_for_are_named(data: Path, tmp_path: Path) -> None:
    scenes = Scenes(data / "train", limit=1)
    scenes.records[0]["objects"] = []
    with pytest.raises(ValueError, match="decides an instruction of the kind spatial"):
        by_reward.write_rows(scenes, 1, 0, tmp_path / "rows", kinds=("spatial",))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 12), ("val", 4)):
        (root / split).mkdir()
        render_shard(root / split, split, 0, count, depth=False)
    return root


@pytest.mark.long
def test_a_stopped_segmenter_continues_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    def run(out: Path, stop_after: int = 0) -> dict[str, torch.Tensor]:
        settings = segmenter.Settings(
            str(data), str(out), steps=3, images=2, prompts=2, save_every=1, stop_after=stop_after
        )
        return load_file(segmenter.train(settings) / "model.safetensors")

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_after=2)
    parts = run(tmp_path / "parts")
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_untrained_segmenter_hears_its_prompts() -> None:
    model = segmenter.build(0).eval()
    assert torch.equal(
        model.prompt_encoder.shared_embedding.positional_embedding, model.shared_image_embedding.positional_embedding
    )
    pixels = torch.rand(1, 3, segmenter.SIDE, segmenter.SIDE)
    with torch.no_grad():
        here, there = (
            model(pixel_values=pixels, input_boxes=torch.tensor([[[x, 20.0, x + 60, 80.0]]])).pred_masks
            for x in (10.0, 150.0)
        )
    assert (here - there).abs().mean() > 0.02 * here.std()
