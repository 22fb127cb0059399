"""What of the verl adapter needs no verl; training/engines/verl/test_in_verl.py has the rest."""

from __future__ import annotations

import json
import re
from functools import reduce
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from segzero_ros.core.prompt import build_prompt
from segzero_ros.profiles import load_profile
from training.data import prepare
from training.engines.verl.keys import FOLDER, dotted, names, pinned, read, unknown
from training.engines.verl.reward import compute_score
from training.engines.verl.rows import check_columns, check_profile, messages, prepared, verl_row
from training.finetune.configuration import load
from training.rewards import PROFILES

SINGLE = "<box>(100,200),(300,400)</box><points>(200,300),(250,350)</points>"
LIST = '[{"bbox_2d": [100, 200, 300, 400], "point_2d": [200, 300]}]'
ANSWER_SINGLE = (
    "<think>the cup</think>"
    '<answer>{"bbox": [100, 200, 300, 400], "points_1": [200, 300], "points_2": [250, 350]}</answer>'
)
ANSWER_LIST = f"<think>the cup</think><answer>{LIST}</answer>"


def row(**other: object) -> dict[str, object]:
    image = Image.fromarray(np.zeros((840, 840, 3), np.uint8))
    return {
        "id": "17",
        "problem": "The cup.",
        "solution": SINGLE,
        "image": image,
        "img_height": 480,
        "img_width": 640,
        **other,
    }


@pytest.mark.parametrize(
    ("profile", "solution", "answer"),
    [("seg-zero", SINGLE, ANSWER_SINGLE), ("article", SINGLE, ANSWER_SINGLE), ("vision-reasoner", LIST, ANSWER_LIST)],
)
def test_a_right_answer_scores_the_profiles_maximum_with_every_term_beside_it(
    profile: str, solution: str, answer: str
) -> None:
    # As verl calls it: keywords, and extra_info with what it adds itself.
    found = compute_score(
        data_source="rows",
        solution_str=answer,
        ground_truth=solution,
        extra_info={"id": "17", "square": 840, "num_turns": 2, "rollout_reward_scores": {}},
        profile=profile,
    )
    assert found.pop("score") == PROFILES[profile].maximum
    assert set(found) == set(PROFILES[profile].terms)
    assert sum(found.values()) == PROFILES[profile].maximum


def test_thresholds_scale_with_the_square_that_the_dataset_names() -> None:
    # Eight pixels off on all sides: within 10 at 840, beyond 2.67 at 224.
    answer = ANSWER_SINGLE.replace("[100, 200, 300, 400]", "[108, 208, 308, 408]")

    def score(square: int) -> float:
        return compute_score("rows", answer, SINGLE, {"square": square}, profile="seg-zero")["score"]

    assert score(840) == 5.0
    assert score(224) == 4.0


def test_every_completion_gets_the_same_keys_for_verls_log() -> None:
    right = compute_score("rows", ANSWER_LIST, LIST, profile="segzero")
    wrong = compute_score("rows", "nothing of use", LIST, profile="segzero")
    assert set(right) == set(wrong)
    assert wrong["score"] < right["score"]


def test_a_solution_of_the_other_form_stops_the_run_instead_of_scoring_nothing() -> None:
    with pytest.raises(ValueError, match="row 17 of rows: seg-zero takes solutions of the form 'single'"):
        compute_score("rows", ANSWER_SINGLE, LIST, {"id": "17"}, profile="seg-zero")
    with pytest.raises(ValueError, match="'list'"):
        compute_score("rows", ANSWER_LIST, SINGLE, profile="vision-reasoner")


def test_profiles_that_verl_cannot_run_are_refused() -> None:
    with pytest.raises(ValueError, match="segmenter"):
        compute_score("rows", ANSWER_LIST, LIST, profile="star")
    with pytest.raises(ValueError, match="known: seg-zero"):
        compute_score("rows", ANSWER_LIST, LIST, profile="segzro")


def test_a_row_becomes_what_verl_reads() -> None:
    found = verl_row(row(), load_profile("seg-zero"), "refcocog", 3)
    assert found["data_source"] == "refcocog"
    assert found["reward_model"] == {"style": "rule", "ground_truth": SINGLE}
    assert found["extra_info"] == {"index": 3, "id": "17", "square": 840, "img_height": 480, "img_width": 640}
    assert found["index"] == 3
    assert found["tools_kwargs"] == found["interaction_kwargs"] == {}
    scored = compute_score(
        found["data_source"],
        ANSWER_SINGLE,
        found["reward_model"]["ground_truth"],
        found["extra_info"],
        profile="seg-zero",
    )
    assert scored["score"] == 5.0


def test_the_prompt_is_the_nodes_image_first() -> None:
    profile = load_profile("seg-zero")
    system, user = messages(row(), profile)
    assert system == {"role": "system", "content": "You are a helpful assistant."}
    image, text = user["content"]
    assert image["type"] == "image" and image["image"].size == (840, 840) and image["image"].mode == "RGB"
    assert text == {"type": "text", "text": build_prompt(profile, "The cup.")}


def test_a_newline_stands_before_the_prompt_where_it_is_asked_for() -> None:
    profile = load_profile("vision-reasoner")
    (_, user) = messages(row(), profile, newline=True)
    assert user["content"][1]["text"] == "\n" + build_prompt(profile, "The cup.")


def test_a_profile_without_system_turn_has_none() -> None:
    turns = messages(row(image=np.zeros((224, 224, 3), np.uint8)), load_profile("demo"))
    assert [t["role"] for t in turns] == ["user"]


def test_an_image_of_another_size_is_named_by_its_row() -> None:
    with pytest.raises(ValueError, match="row 17: the image is 640 x 480, not 840 x 840"):
        messages(row(image=Image.new("RGB", (640, 480))), load_profile("seg-zero"))


def save(folder: Path, *splits: str) -> str:
    """Two rows, as `prepare` writes them: a DatasetDict; without splits a Dataset."""
    data = Dataset.from_list([row(), row(id="18")]).cast_column("image", datasets.Image())
    (DatasetDict(dict.fromkeys(splits, data)) if splits else data).save_to_disk(str(folder))
    return str(folder)


@pytest.mark.parametrize("splits", [(), ("train",)])
def test_a_folder_of_rows_or_of_one_split_is_taken_with_its_name(tmp_path: Path, splits: tuple[str, ...]) -> None:
    found = prepared(save(tmp_path / "mugs", *splits))
    assert found["id"][:] == ["17", "18"] and found["_source"][:] == ["mugs", "mugs"]
    turns = verl_row(found[1], load_profile("seg-zero"), found[1]["_source"], 1)
    assert (turns["data_source"], turns["extra_info"]["id"]) == ("mugs", "18")


def test_of_several_splits_one_is_to_be_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "mugs", "train", "val")
    with pytest.raises(ValueError, match=rf"{folder} holds train, val; name one of its folders"):
        prepared(folder)
    assert len(prepared(f"{folder}/val")) == 2


@pytest.mark.parametrize("name", ["gone", "empty"])
def test_a_folder_without_rows_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=str(tmp_path / name)):
        prepared(str(tmp_path / name))


def test_what_prepare_writes_is_taken_as_it_is(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((40, 60, 3), np.uint8))
    shapes = [{"label": "target", "points": [[10, 10], [30, 10], [30, 30], [10, 30]]}]
    (tmp_path / "a.json").write_text(json.dumps({"text": ["the mug"], "is_sentence": False, "shapes": shapes}))
    call = ["--source", "reasonseg", "--root", str(tmp_path), "--form", "single", "--page", "0"]
    assert prepare.main([*call, "--out", str(tmp_path / "rows")]) == 0
    (found,) = prepared(str(tmp_path / "rows"))
    assert messages(found, load_profile("seg-zero"))[-1]["content"][0]["image"].size == (840, 840)


def test_a_profile_of_thousandths_is_refused_with_a_sentence() -> None:
    check_profile(load_profile("seg-zero"))
    with pytest.raises(ValueError, match="profile qwen3-vl writes thousandths, and prepared rows hold pixels; use TRL"):
        check_profile(load_profile("qwen3-vl"))


def test_missing_columns_are_named_with_their_folder() -> None:
    with pytest.raises(ValueError, match="data/mugs: no column solution, img_width"):
        check_columns(["id", "problem", "image", "img_height"], "data/mugs")


@pytest.mark.parametrize("name", names())
def test_every_key_is_one_of_verls(name: str) -> None:
    assert unknown(read(name), pinned()) == []


def test_a_key_that_verl_lacks_is_found_at_any_depth() -> None:
    known = {"a.b", "a.c.d", "e"}
    assert unknown({"a": {"b": 1, "c": {"d": 1}}, "e": {}}, known, ours=()) == []
    assert unknown({"a": {"bb": 1, "c": {"x": 1}}, "e": {"f": 2}, "g": {}}, known, ours=()) == [
        "a.bb",
        "a.c.x",
        "e.f",
        "g",
    ]
    assert unknown({"a": {"bb": {"x": 1}, "bbb": 2}}, known, ours=("a.bb",)) == ["a.bbb"]


def test_the_published_values_stand_under_verls_names() -> None:
    flat = _flat("seg_zero_7b")
    actor, rollout = "actor_rollout_ref.actor.", "actor_rollout_ref.rollout."
    published = {
        "data.train_batch_size": 16,
        "data.max_prompt_length": 1300,
        "data.max_response_length": 1300,
        "data.seed": 42,
        "algorithm.adv_estimator": "grpo",
        "algorithm.use_kl_in_reward": False,
        actor + "ppo_mini_batch_size": 16,
        actor + "ppo_epochs": 1,
        actor + "clip_ratio": 0.2,
        actor + "use_kl_loss": True,
        actor + "kl_loss_coef": 5e-3,
        actor + "kl_loss_type": "low_var_kl",
        actor + "entropy_coeff": 1e-3,
        actor + "grad_clip": 1.0,
        actor + "freeze_vision_tower": False,
        actor + "optim.lr": 1e-6,
        actor + "optim.lr_scheduler_type": "constant",
        actor + "optim.lr_warmup_steps": 0,
        actor + "optim.weight_decay": 1e-2,
        actor + "optim.betas": [0.9, 0.999],
        actor + "fsdp_config.model_dtype": "fp32",
        actor + "fsdp_config.param_offload": True,
        actor + "fsdp_config.optimizer_offload": True,
        "actor_rollout_ref.ref.fsdp_config.param_offload": True,
        rollout + "n": 8,
        rollout + "temperature": 1.0,
        rollout + "tensor_model_parallel_size": 2,
        rollout + "gpu_memory_utilization": 0.5,
        "trainer.total_epochs": 1,
        "trainer.save_freq": 50,
    }
    assert {name: flat.get(name) for name in published} == published


@pytest.mark.parametrize("name", names())
def test_trls_configuration_of_the_same_name_says_the_same(name: str) -> None:
    trl, verl = load(name), {**_flat("seg_zero_7b"), **_flat(name)}
    actor, optim = "actor_rollout_ref.actor.", "actor_rollout_ref.actor.optim."
    told = {
        "data.train_batch_size": trl.batch.prompts,
        "data.max_response_length": trl.grpo["max_completion_length"],
        "data.segzero.newline_after_image": trl.data.newline_after_image,
        "data.seed": trl.seed,
        "reward.custom_reward_function.reward_kwargs.profile": trl.reward.profile,
        "actor_rollout_ref.model.path": trl.model.path,
        actor + "ppo_micro_batch_size_per_gpu": trl.batch.micro,
        actor + "kl_loss_coef": trl.grpo["beta"],
        actor + "entropy_coeff": trl.grpo["entropy_coef"],
        actor + "clip_ratio": trl.grpo["epsilon"],
        actor + "ppo_epochs": trl.grpo["num_iterations"],
        actor + "grad_clip": trl.trl["max_grad_norm"],
        optim + "lr": trl.trl["learning_rate"],
        optim + "weight_decay": trl.trl["weight_decay"],
        optim + "betas": [trl.trl["adam_beta1"], trl.trl["adam_beta2"]],
        optim + "lr_warmup_steps": trl.trl["warmup_steps"],
        "actor_rollout_ref.rollout.n": trl.grpo["num_generations"],
        "actor_rollout_ref.rollout.temperature": trl.grpo["temperature"],
        "trainer.save_freq": trl.save_every,
        "trainer.total_epochs": trl.trl["num_train_epochs"],
        "trainer.n_gpus_per_node": trl.hardware.gpus,
    }
    assert {key: verl[key] for key in told} == told
    node = load_profile(str(verl["data.segzero.profile"]))
    assert (node.prompt, node.system, node.square) == (trl.data.prompt, trl.data.system, trl.data.square)


def _flat(name: str) -> dict[str, object]:
    tree = read(name)
    return {key: reduce(lambda below, part: below[part], key.split("."), tree) for key in dotted(tree)}


@pytest.mark.parametrize("name", ["seg_zero_7b.yaml", "dataset.py", "reward.py"])
def test_what_verl_is_told_to_import_is_there(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    modules = re.findall(r"pkg://([\w.]+)", text)
    assert modules
    assert all(Path(*module.split(".")).with_suffix(".py").is_file() for module in modules)
