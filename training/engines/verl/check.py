"""Before a run is queued, in verl's environment: `python -m training.engines.verl.check NAME data.train_files=ROWS`.

Composes the configuration as verl does, refuses keys that verl lacks, has verl validate it, loads the reward function
and, where the model's files and the rows are on this machine, the first row, whose image tokens are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.engines.verl.keys import FOLDER, PINNED, dotted, names, read, unknown

# Sections that a run of this adapter can reach; profilers and engines of other vendors are left out of the pinned list.
_SECTIONS = ("critic.enable", "data.", "reward.", "algorithm.", "actor_rollout_ref.", "trainer.", "ray_kwargs.")
_LEFT_OUT = (".profiler.", ".qat.", ".turbo_config.", ".mtp.", ".lora.", "reward.reward_model.rollout.")


def compose(name: str, overrides: Sequence[str] = ()) -> Any:
    """verl's defaults under our file, as `main_ppo --config-dir ... --config-name NAME` has them. An OmegaConf."""
    from hydra import compose as composed
    from hydra import initialize_config_dir

    with initialize_config_dir(version_base=None, config_dir=str(FOLDER)):
        return composed(name, overrides=[*overrides, f"hydra.searchpath=[file://{_verl_config()}]"])


def _verl_config() -> Path:
    import verl.trainer

    return Path(verl.trainer.__file__).parent / "config"


def verl_keys() -> set[str]:
    """Every key of verl's own configuration."""
    from hydra import compose as composed
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(version_base=None, config_dir=str(_verl_config())):
        tree: Any = OmegaConf.to_container(composed("ppo_trainer"), resolve=False)
    return set(dotted(tree))


def validate(config: Any) -> None:
    """verl's own checks. Raises what it raises."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))


def dataset(config: Any) -> Any:
    """As verl's trainer makes it: tokenizer and processor from the model's folder, the class by its path."""
    from verl.trainer.ppo.utils import create_rl_dataset
    from verl.utils.config import omega_conf_to_dataclass

    model: Any = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    return create_rl_dataset(
        config.data.train_files,
        config.data,
        model.tokenizer,
        model.processor,
        max_samples=config.data.train_max_samples,
    )


def prompt_tokens(rows: Any, item: int) -> list[int]:
    """Of a row, image tokens expanded, built as verl's rollout builds them."""
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    turns = rows[item]["raw_prompt"]
    images, _ = asyncio.run(rows.process_vision_info(turns, rows.image_patch_size, rows.config))
    builder = create_continuous_token_builder(
        rows.tokenizer, hf_model_type=rows.processor.config.model_type, processor=rows.processor
    )
    return [int(t) for t in builder.build_initial_tokens(turns, images=images)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.engines.verl.check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("name", nargs="?", help=", ".join(names()))
    parser.add_argument("overrides", nargs="*", help="as verl takes them, such as trainer.nnodes=4")
    parser.add_argument("--write-keys", action="store_true", help=f"make {PINNED.name} anew from the installed verl")
    arguments = parser.parse_args(argv)
    if arguments.write_keys:
        kept = [k for k in verl_keys() if k.startswith(_SECTIONS) and not any(part in k for part in _LEFT_OUT)]
        PINNED.write_text("\n".join(sorted(kept)) + "\n")
        print(f"{len(kept)} keys in {PINNED.name}")
    if not arguments.name:
        return 0 if arguments.write_keys else parser.error("which configuration?")
    try:
        _check(arguments.name, arguments.overrides)
    except (ValueError, AssertionError) as error:
        print(f"check: {error}", file=sys.stderr)
        return 1
    return 0


def _check(name: str, overrides: Sequence[str]) -> None:
    from verl.trainer.ppo.reward import get_custom_reward_fn

    known = verl_keys()
    for file in names():
        if wrong := unknown(read(file), known):
            raise ValueError(f"{file}.yaml: verl has no {', '.join(wrong)}")
    config = compose(name, overrides)
    print(f"keys: {len(dotted(read(name)))} of ours, all known to verl, of {len(known)}")
    validate(config)
    if get_custom_reward_fn(config) is None:
        raise ValueError("no reward function")
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    print(
        f"per update: {actor.ppo_mini_batch_size} prompts x {rollout.n} completions; reward "
        f"{config.reward.custom_reward_function.reward_kwargs.profile}, lr {actor.optim.lr}, KL {actor.kl_loss_coef}"
    )
    from omegaconf import OmegaConf

    if OmegaConf.is_missing(config.data, "train_files") or not Path(config.actor_rollout_ref.model.path).is_dir():
        print("rows: not looked at; give data.train_files and actor_rollout_ref.model.path, folders of this machine")
        return
    rows = dataset(config)
    ids = prompt_tokens(rows, 0)
    image = rows.processor.image_token_id
    print(f"rows: {len(rows)}; the first prompt has {len(ids)} tokens, {ids.count(image)} of them the image")
    if len(ids) > config.data.max_prompt_length:
        raise ValueError(f"data.max_prompt_length is {config.data.max_prompt_length}")


if __name__ == "__main__":
    sys.exit(main())
