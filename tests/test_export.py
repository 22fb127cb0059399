"""What is exported is what was trained, whole, with a card, and the node loads it by its profile."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from segzero_ros.core.prompt import build_prompt
from segzero_ros.models.reasoner_transformers import load_reasoner
from segzero_ros.profiles import load_profile
from training.finetune import export
from training.finetune import run as train
from training.finetune.configuration import Configuration, ConfigurationError, load, plain
from training.finetune.shrink import shrunk

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(name: str, folder: Path) -> Configuration:
    c, _ = shrunk(load(name, ["pictures=false", "watch.spread_prompts=0", "trl.learning_rate=1e-2"]), folder)
    assert train.run(replace(c, trl={**c.trl, "save_total_limit": 5})) == 0
    return c


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    return trained("seg_zero_3b_sft", tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    return trained("qlora_24gb_sft", tmp_path_factory.mktemp("adapted"))


def test_the_node_loads_an_export_by_its_profile_and_answers_as_the_checkpoint_does(
    whole: Configuration, tmp_path: Path
) -> None:
    out = export.export(Path(whole.out), tmp_path / "made", "last", dtype="float32")
    profile = load_profile(str(out / "profile.yaml"))
    assert (profile.schema, profile.square, profile.coordinates) == ("single", 56, "pixels")
    assert profile.rounding == "round"
    assert profile.system == "You are a helpful assistant."
    assert build_prompt(profile, "The cup.") == build_prompt(load_profile("seg-zero"), "The cup.")
    node = load_reasoner(profile, device="cpu", dtype="float32")
    square = np.zeros((56, 56, 3), np.uint8)
    (said,) = node.generate([square], [build_prompt(profile, "the rectangle")])
    checkpoint = replace(profile, reasoner=str(Path(whole.out) / "checkpoint-2"))
    (same,) = load_reasoner(checkpoint, device="cpu", dtype="float32").generate(
        [square], [build_prompt(profile, "the rectangle")]
    )
    assert said.text == same.text
    assert not list(out.glob("*.bin"))
    assert not out.with_name("made.part").exists()
    processor = json.loads((out / "preprocessor_config.json").read_text())
    assert processor["patch_size"] == 14 and processor["min_pixels"] <= 56**2 <= processor["max_pixels"]
    assert "<|vision_start|>" in (out / "chat_template.jinja").read_text()


def test_a_run_is_exported_as_it_was_trained_whatever_is_refused_today(
    whole: Configuration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = plain(whole)
    data["trl"] |= {"torch_compile_backend": "foo", "learning_rate": 0}
    data["data"]["shape"] = 7
    (tmp_path / "configuration.yaml").write_text(yaml.safe_dump(data))
    assert plain(export.read_run(tmp_path))["trl"] == data["trl"]
    assert "configuration.yaml has data.shape, no settings any longer" in capsys.readouterr().err
    data["data"]["square"] = "wide"
    (tmp_path / "configuration.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigurationError, match=r"configuration\.yaml.* may be edited: data\.square"):
        export.read_run(tmp_path)


def test_adapters_are_merged(adapted: Configuration, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    out = export.export(Path(adapted.out), tmp_path / "made", "last", dtype="float32")
    assert not list(out.glob("adapter*"))
    base: Any = AutoModelForImageTextToText.from_pretrained(adapted.model.path, dtype=torch.float32)
    beside = PeftModel.from_pretrained(base, str(Path(adapted.out) / "checkpoint-2")).eval()
    merged: Any = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32).eval()
    ids = torch.arange(40, 60)[None]
    with torch.no_grad():
        theirs, mine = (m(input_ids=ids).logits for m in (beside, merged))
        with beside.disable_adapter():
            before = beside(input_ids=ids).logits
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert (mine - before).abs().max() > 1e-3, "and they say something"


def test_the_card_says_data_configuration_figures_and_licence(adapted: Configuration, tmp_path: Path) -> None:
    figures = tmp_path / "reasonseg.json"
    figures.write_text(json.dumps({"giou": 0.575}))
    out = export.export(Path(adapted.out), tmp_path / "made", figures=[figures])
    card = (out / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "apache-2.0"
    assert head["base_model"] == adapted.model.path
    for said in (
        "rank 32",
        adapted.data.train,
        "| update |",
        "(this)",
        "reasonseg.json",
        "0.575",
        "## Licence",
    ):
        assert said in card
    assert yaml.safe_load((out / "training.yaml").read_text())["name"] == "qlora_24gb_sft"
    assert all(w.dtype == torch.bfloat16 for w in load_file(out / "model.safetensors").values())
    research = replace(adapted, model=replace(adapted.model, licence="Qwen Research (non-commercial)"))
    card = export.card(research, Path(adapted.out), 2, [], "qwen2_5_vl")
    assert yaml.safe_load(card.split("---")[1])["license"] == "other"
    assert "non-commercial" in card
    quantised = replace(adapted, model=replace(adapted.model, quantise="nf4"))
    assert "over a base of 4 bits" in export.card(quantised, Path(adapted.out), 2, [], "qwen2_5_vl")


def test_the_best_checkpoint_is_that_of_the_best_validation(whole: Configuration, tmp_path: Path) -> None:
    run = Path(whole.out)
    state = json.loads((run / "checkpoint-2" / "trainer_state.json").read_text())
    # Nothing is won by a tiny model, so the first validation is the best.
    assert state["best_global_step"] == 1
    assert export.choose(run, "best") == run / "checkpoint-1"
    assert export.choose(run, "last") == run / "checkpoint-2"
    assert export.choose(run, "1") == run / "checkpoint-1"
    with pytest.raises(ConfigurationError, match="no whole checkpoint 7; it has 1, 2"):
        export.choose(run, "7")


def test_what_is_missing_is_said(whole: Configuration, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(tmp_path), "--out", str(tmp_path / "made")]) == 2
    assert "holds no run" in capsys.readouterr().err
    (tmp_path / "made").mkdir()
    assert export.main([whole.out, "--out", str(tmp_path / "made")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert export.main([whole.out, "--out", str(tmp_path / "new"), "--figures", str(tmp_path / "none.json")]) == 2
    assert "not readable JSON" in capsys.readouterr().err


def test_coordinates_of_the_other_family(tmp_path: Path) -> None:
    c = trained("qwen3_vl_4b_sft", tmp_path)
    out = export.export(Path(c.out), tmp_path / "made")
    profile = load_profile(str(out / "profile.yaml"))
    assert (profile.coordinates, profile.model_class, profile.system) == ("thousandths", "qwen3_vl", None)
    assert load_reasoner(profile, device="cpu").image_tokens == 4
