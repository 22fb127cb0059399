"""Two engines' log-probabilities: the figures by hand, and transformers against itself."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from segzero_ros.profiles import load_profile
from training.engines.mismatch.__main__ import main
from training.engines.mismatch.by_transformers import Transformers
from training.engines.mismatch.by_vllm import with_processor
from training.engines.mismatch.completions import Completion
from training.engines.mismatch.prompts import read_prompts, write_prompts
from training.engines.mismatch.report import figures

WEIGHTS = Path(__file__).parents[1] / "segzero_ros" / "weights" / "reasoner"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("prompts")
    rng = np.random.default_rng(0)
    squares = [rng.integers(0, 255, (224, 224, 3)).astype(np.uint8) for _ in range(2)]
    asked = [(squares[0], "the red mug"), (squares[1], "segment the blue duck on the left, please")]
    write_prompts(where, load_profile("demo"), "embedded", asked)
    return where


def test_figures_by_hand() -> None:
    found = figures([[-1.0, -2.0], [-0.5]], [[-1.0, -2.0 + math.log(1.5)], [-0.5 - math.log(2)]])
    d = [0.0, math.log(1.5), -math.log(2)]
    assert found["completions"] == 2 and found["tokens"] == 3
    assert found["mean_abs"] == pytest.approx((math.log(1.5) + math.log(2)) / 3)
    assert found["max_abs"] == pytest.approx(math.log(2))
    assert found["kl_k1"] == pytest.approx(-sum(d) / 3)
    assert found["kl_k3"] == pytest.approx((0 + 0.5 - math.log(1.5) + -0.5 + math.log(2)) / 3)
    assert found["ratio"]["0.0"] == pytest.approx(0.5) and found["ratio"]["1.0"] == pytest.approx(1.5)
    assert found["ratio_sequence"]["0.5"] == pytest.approx(1.0), "the middle of 1.5 and 0.5"
    assert found["outside_clip"] == pytest.approx(2 / 3)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="without tokens"):
        figures([[]], [[]])
    with pytest.raises(ValueError, match="not finite"):
        figures([[-1.0]], [[float("-inf")]])


def test_prompts_hold_the_image_token_once_and_expand_to_the_nodes(folder: Path) -> None:
    prompts = read_prompts(folder)
    assert prompts.image_tokens == 196
    for number, item in enumerate(prompts.items):
        assert item.ids.count(prompts.image_token) == 1
        assert prompts.expanded(number).count(prompts.image_token) == 196
        assert item.image.shape == (224, 224, 3)


def test_one_pass_scores_what_generation_with_a_cache_sampled(folder: Path) -> None:
    """Prompts of two lengths: padding on the left to sample, on the right to score."""
    prompts = read_prompts(folder)
    engine = Transformers(prompts, "float32", batch=3)
    drawn = list(engine.sample(prompts, 2, seed=0))
    assert [c.item for c in drawn] == [0, 0, 1, 1]
    assert all(c.ids and len(c.ids) == len(c.logprobs) for c in drawn)
    scored = list(engine.score(prompts, drawn))
    assert figures([c.logprobs for c in drawn], scored)["max_abs"] < 1e-4
    # And it would see a difference: other tokens, other images.
    other = [Completion(c.item, [*c.ids[:-1], 500], c.logprobs) for c in drawn]
    assert figures([c.logprobs for c in other], list(engine.score(prompts, other)))["max_abs"] > 1.0
    swapped = [Completion(1 - c.item, c.ids, c.logprobs) for c in drawn]
    assert figures([c.logprobs for c in swapped], list(engine.score(prompts, swapped)))["max_abs"] > 0.01


def test_the_command_goes_from_samples_to_a_table_and_a_picture(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [str(folder), "--engine", "transformers", "--dtype"]
    assert main(["sample", *run, "float32", "--samples", "1"]) == 0
    assert main(["score", *run, "bfloat16", "--sampled", "transformers-float32"]) == 0
    scored = folder / "transformers-float32.by-transformers-bfloat16.jsonl"
    out = [str(tmp_path / "figures.json"), str(tmp_path / "figures.png")]
    assert main(["report", str(scored), "--json", out[0], "--picture", out[1]]) == 0
    assert "bfloat16 |" in capsys.readouterr().out
    (found,) = json.loads(Path(out[0]).read_text()).values()
    assert found["completions"] == 2 and 0 < found["mean_abs"] < 1
    assert Path(out[1]).stat().st_size > 10_000
    assert not list(folder.glob("*.part"))


def test_a_broken_line_and_a_missing_step_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "x.jsonl"
    broken.write_text('{"sampled": [1]}\n{"sam')
    assert main(["report", str(broken)]) == 1
    assert "x.jsonl, line 2" in capsys.readouterr().err
    assert main(["sample", str(tmp_path), "--engine", "transformers"]) == 1
    assert "prompts.json is not there" in capsys.readouterr().err


def test_a_checkpoint_without_processor_gets_one_of_its_own_patch_size(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(WEIGHTS, bare, ignore=shutil.ignore_patterns("*preprocessor_config.json", "*.jinja"))
    made = with_processor(bare, tmp_path / "made", 224)
    config = json.loads((made / "preprocessor_config.json").read_text())
    assert (config["patch_size"], config["merge_size"], config["temporal_patch_size"]) == (8, 2, 2)
    assert (made / "model.safetensors").resolve() == bare / "model.safetensors"
    assert not (bare / "preprocessor_config.json").exists()
    assert with_processor(made, tmp_path / "other", 224) == made, "one that has its own is left alone"
