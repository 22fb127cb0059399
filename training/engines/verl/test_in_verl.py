"""The adapter against verl itself; runs in verl's environment and not with the other tests:

    PYTHONPATH=. VERL/bin/python -m pytest training/engines/verl/test_in_verl.py

What a CPU cannot show: verl 0.9.1 registers its training engines for CUDA and Ascend alone, and its rollouts need vLLM.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoTokenizer

from segzero_ros.core.prompt import build_prompt
from segzero_ros.profiles import load_profile
from training.engines.verl.check import compose, dataset, main, prompt_tokens, validate, verl_keys
from training.engines.verl.keys import FOLDER, names, pinned, read, unknown

WEIGHTS = Path(__file__).parents[3] / "segzero_ros" / "weights" / "reasoner"
SIDE = 224
TRUTH = '[{"bbox_2d": [20, 30, 80, 90], "point_2d": [50, 60]}]'
RIGHT = f"<think>The target is the red mug.</think><answer>{TRUTH}</answer>"


@pytest.fixture(scope="session")
def model() -> Path:
    """The embedded checkpoint, which has the files of a published one: processor and chat template."""
    return WEIGHTS


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "mugs"
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)) for _ in range(6)]
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "problem": datasets.Value("string"),
            "solution": datasets.Value("string"),
            "image": datasets.Image(),
            "img_height": datasets.Value("int64"),
            "img_width": datasets.Value("int64"),
        }
    )
    columns: dict[str, Any] = {
        "id": [f"scene-{n}" for n in range(6)],
        # The second one would be split by verl's own dataset, which looks for the word.
        "problem": ["the red mug", "the sign that says <image>", "the mug", "the red one", "a mug", "red"],
        "solution": [TRUTH] * 6,
        "image": images,
        "img_height": [480] * 6,
        "img_width": [640] * 6,
    }
    datasets.Dataset.from_dict(columns, features).save_to_disk(folder)
    return folder


@pytest.fixture(scope="session")
def config(model: Path, rows: Path) -> Any:
    """VisionReasoner's configuration on the embedded model."""
    return compose(
        "vision_reasoner_7b",
        [
            f"data.train_files={rows}",
            f"actor_rollout_ref.model.path={model}",
            "data.segzero.profile=demo",
            "data.image_patch_size=8",
            "reward.num_workers=1",
            "trainer.n_gpus_per_node=1",
        ],
    )


@pytest.mark.parametrize("name", names())
def test_verl_has_every_key_and_finds_the_values_valid(name: str) -> None:
    assert unknown(read(name), verl_keys()) == []
    validate(compose(name))


def test_the_pinned_keys_are_the_installed_ones() -> None:
    assert pinned() <= verl_keys()


def test_a_misspelt_key_is_found_that_hydra_takes(tmp_path: Path) -> None:
    tree = {"actor_rollout_ref": {"actor": {"entropy_coef": 1e-3, "entropy_coeff": 1e-3}}}
    assert unknown(tree, verl_keys()) == ["actor_rollout_ref.actor.entropy_coef"]


def test_verls_own_command_line_composes_the_same() -> None:
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-dir", str(FOLDER)]
    out = subprocess.run(
        [*command, "--config-name", "vision_reasoner_7b", "--cfg", "job"], capture_output=True, text=True, check=True
    )
    told = yaml.safe_load(out.stdout)
    assert told == OmegaConf.to_container(compose("vision_reasoner_7b"))
    assert told["actor_rollout_ref"]["actor"]["kl_loss_coef"] == 1e-2
    assert told["actor_rollout_ref"]["actor"]["entropy_coeff"] == 1e-3, "from seg_zero_7b"


def test_a_prompt_has_the_nodes_token_ids(config: Any, model: Path) -> None:
    found = dataset(config)
    tokenizer = AutoTokenizer.from_pretrained(model)
    profile = load_profile("demo")
    cells = (SIDE // 16) ** 2
    prompt = build_prompt(profile, "the red mug")
    # With the newline that VisionReasoner has in training.
    text = f"<|im_start|>user\n<|vision_start|>{'<|image_pad|>' * cells}<|vision_end|>\n{prompt}<|im_end|>\n"
    meant = tokenizer.encode(text + "<|im_start|>assistant\n", add_special_tokens=False)
    assert prompt_tokens(found, 0) == meant
    assert prompt_tokens(found, 1).count(found.processor.image_token_id) == cells


def test_verls_loader_batches_resumes_and_subsamples(config: Any) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader
    from verl.utils.dataset.rl_dataset import collate_fn

    found = dataset(config)

    def loader() -> Any:
        return StatefulDataLoader(found, batch_size=2, num_workers=0, collate_fn=collate_fn)

    whole = [list(b["index"]) for b in loader()]
    assert whole == [[0, 1], [2, 3], [4, 5]]
    first = loader()
    batch = next(iter(first))
    assert batch["data_source"].tolist() == ["mugs", "mugs"]
    assert batch["dummy_tensor"].shape == (2, 1)
    second = loader()
    second.load_state_dict(first.state_dict())
    assert [list(b["index"]) for b in second] == whole[1:]
    small = config.copy()
    small.data.train_max_samples = 3
    assert len(dataset(small)) == 3


def test_overlong_prompts_are_filtered_by_verl(config: Any) -> None:
    short = config.copy()
    short.data.filter_overlong_prompts = True
    short.data.max_prompt_length = 100
    assert len(dataset(short)) == 0
    short.data.max_prompt_length = 1300
    assert len(dataset(short)) == 6


def test_a_folder_that_is_none_is_named(config: Any, tmp_path: Path) -> None:
    wrong = config.copy()
    wrong.data.train_files = str(tmp_path)
    with pytest.raises(ValueError, match=str(tmp_path)):
        dataset(wrong)


def test_what_prepare_writes_is_taken_and_of_several_splits_one(config: Any, rows: Path, tmp_path: Path) -> None:
    one = datasets.load_from_disk(str(rows))
    datasets.DatasetDict({"train": one}).save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "val": one}).save_to_disk(str(tmp_path / "two"))
    given = config.copy()
    given.data.train_files = [str(tmp_path / "one"), str(tmp_path / "two" / "val")]
    found = dataset(given)
    assert len(found) == 12 and [found[n]["data_source"] for n in (0, 11)] == ["one", "val"]
    given.data.train_files = str(tmp_path / "two")
    with pytest.raises(ValueError, match="holds train, val"):
        dataset(given)


def test_a_profile_of_thousandths_is_refused(config: Any) -> None:
    wrong = config.copy()
    wrong.data.segzero.profile = "qwen3-vl"
    with pytest.raises(ValueError, match="profile qwen3-vl writes thousandths"):
        dataset(wrong)


def test_verls_reward_workers_score_as_the_profile_does(config: Any) -> None:
    """Through Ray: another process loads the function by its path, decodes tokens and scores them."""
    import ray
    from verl import DataProto
    from verl.experimental.reward_loop import RewardLoopManager

    from training.rewards import PROFILES

    found = dataset(config)
    tokenizer = found.tokenizer
    texts = [RIGHT, RIGHT.replace("20, 30", "90, 10"), "<answer>[]</answer>", RIGHT.replace("</think>", "")]
    ids = [tokenizer.encode(t, add_special_tokens=False) for t in texts]
    longest = max(map(len, ids))
    responses = torch.tensor([[*i, *[tokenizer.pad_token_id] * (longest - len(i))] for i in ids])
    attended = torch.tensor([[1, *[1] * len(i), *[0] * (longest - len(i))] for i in ids])
    batch = {"prompts": torch.ones(len(ids), 1, dtype=torch.long), "responses": responses, "attention_mask": attended}
    columns = {
        key: np.array([found[n][key] for n in range(len(texts))], dtype=object)
        for key in ("data_source", "reward_model", "extra_info")
    }
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        out = RewardLoopManager(config).compute_rm_score(DataProto.from_dict(tensors=batch, non_tensors=columns))
    finally:
        ray.shutdown()
    scores = out.batch["rm_scores"].sum(-1).tolist()
    assert scores == PROFILES["vision-reasoner"].score(texts, [TRUTH] * 4, square=SIDE)
    assert scores[0] == 7.0 and scores[0] > scores[1] > scores[2]
    assert out.batch["rm_scores"][0, len(ids[0]) - 1] == 7.0, "at the last token"
    assert "score" in out.meta_info["reward_extra_keys"]


def test_the_loss_of_this_configuration_is_the_published_one() -> None:
    """Advantage and loss by verl's functions, against the formula written out: a mean over sequences of their means."""
    from tensordict import TensorDict
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.utils import losses

    config = compose("seg_zero_7b")
    actor: Any = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    generator = torch.Generator().manual_seed(0)
    lengths = [5, 3, 6, 2]
    mask = torch.tensor([[1.0] * n + [0.0] * (6 - n) for n in lengths])
    rewards = torch.tensor([5.0, 3.0, 4.0, 4.0])
    at_end = torch.zeros(4, 6)
    at_end[range(4), [n - 1 for n in lengths]] = rewards
    advantages, _ = compute_grpo_outcome_advantage(
        at_end, mask, np.array(["a", "a", "b", "b"]), norm_adv_by_std_in_grpo=config.algorithm.norm_adv_by_std_in_grpo
    )
    assert advantages[0, 0].item() == pytest.approx(1.0 / (2**0.5 + 1e-6))
    assert advantages[2].abs().sum() == 0, "no difference within the group"

    old = torch.randn(4, 6, generator=generator) * 0.1 - 1
    new = old + torch.randn(4, 6, generator=generator) * 0.3
    reference = old + torch.randn(4, 6, generator=generator) * 0.2
    entropy = torch.rand(4, 6, generator=generator)
    ratio = (new - old).exp()
    policy = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    kl = (reference - new).exp() - (reference - new) - 1
    token = policy + 5e-3 * kl - 1e-3 * entropy
    published = ((token * mask).sum(-1) / mask.sum(-1)).mean()

    data = TensorDict(
        {"response_mask": mask, "old_log_probs": old, "advantages": advantages, "ref_log_prob": reference}, batch_size=4
    )
    sizes = {"dp_size": 1, "batch_num_tokens": None, "global_batch_size": 4, "loss_scale_factor": None}
    for key, value in sizes.items():
        data.set_non_tensor(key, value)
    # The padding of verl's packed sequences is not what is looked at here.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "no_padding_2_padding", lambda values, _: values)
        patch.setattr(TensorDict, "to_padded_tensor", lambda self: self, raising=False)
        loss, _ = losses.ppo_loss(actor, {"log_probs": new, "entropy": entropy}, data)
    assert loss.item() == pytest.approx(published.item(), rel=1e-6)


def test_the_check_tells_what_a_run_would_see(model: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"data.train_files={rows}", f"actor_rollout_ref.model.path={model}", "data.segzero.profile=demo"]
    assert main(["vision_reasoner_7b", *given, "data.image_patch_size=8"]) == 0
    assert "196 of them the image" in capsys.readouterr().out
    assert main(["vision_reasoner_7b", *given, "data.image_patch_size=8", "data.max_prompt_length=50"]) == 1
