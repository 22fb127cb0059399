"""What the model answers: greedily on the validation rows, by which checkpoints are chosen, or sampled before a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from training.finetune.configuration import Configuration, main_process
from training.rewards import PROFILES, Profile

Term = Callable[..., list[float]]


@dataclass(frozen=True)
class Said:
    """An answer. tokens: with its end; finished: False where the limit cut it off."""

    text: str
    tokens: int
    finished: bool


def given(c: Configuration) -> dict[str, Any]:
    """What the terms of the configuration's profile need beside texts and solutions."""
    found: dict[str, Any] = {"square": c.data.extent}
    if PROFILES[c.reward.profile].needs_masks:
        from segzero_ros.models.segmenter_transformers import load_segmenter
        from training.finetune.conversations import prompt_profile

        found["segmenter"] = load_segmenter(prompt_profile(c.data), c.reward.segmenter)
    return found


def reward_terms(c: Configuration, needs: dict[str, Any]) -> list[Term]:
    """The profile's terms as GRPOTrainer calls them, columns of a batch by name."""
    profile = PROFILES[c.reward.profile]
    functions = profile.functions(**needs)
    if not profile.needs_masks:
        return functions

    def with_images(term: Term) -> Term:
        def reward(**columns: Any) -> list[float]:
            return term(**columns, images=[np.asarray(image) for image in columns["image"]])

        reward.__name__ = term.__name__
        return reward

    return [with_images(f) for f in functions]


def profile_of(c: Configuration) -> Profile:
    """The configuration's reward profile, with its weights."""
    profile = PROFILES[c.reward.profile]
    return replace(profile, weights={**profile.weights, **c.reward.weights})


def weights(c: Configuration) -> list[float]:
    """Of the terms, in their order."""
    profile = profile_of(c)
    return [profile.weights.get(name, 1.0) for name in profile.terms]


@torch.no_grad()
def answer(
    model: Any, processor: Any, rows: Sequence[dict[str, Any]], *, tokens: int, batch: int, sampled: int = 0
) -> list[list[Said]]:
    """One greedy answer per row, or `sampled` ones at temperature 1; `batch` answers at once. Prompts are padded on the
    left."""
    ends = model.generation_config.eos_token_id
    ends = {processor.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    said: list[list[Said]] = []
    was_training = model.training
    model.eval()
    each = max(1, sampled)
    at_once = max(1, batch // each)  # rows
    for start in tqdm(range(0, len(rows), at_once), desc="answers", leave=False, disable=not main_process()):
        part = [rows[n] for n in range(start, min(start + at_once, len(rows)))]
        texts = processor.apply_chat_template(
            [with_image_part(row["prompt"]) for row in part], add_generation_prompt=True, tokenize=False
        )
        inputs = processor(images=[[row["image"]] for row in part], text=texts, padding=True, return_tensors="pt")
        inputs = {key: value.to(model.device) for key, value in inputs.items()}
        groups: list[list[Said]] = [[] for _ in part]
        while len(groups[0]) < each:
            count = min(batch, each - len(groups[0]))
            out = model.generate(
                **inputs,
                max_new_tokens=tokens,
                do_sample=bool(sampled),
                num_return_sequences=count,
                temperature=1.0 if sampled else None,
                top_p=1.0 if sampled else None,
                top_k=0 if sampled else None,
                repetition_penalty=1.0,
                eos_token_id=sorted(ends),
                pad_token_id=processor.tokenizer.pad_token_id,
                suppress_tokens=[processor.image_token_id],  # as TRL: a sampled image token has no features
            )[:, inputs["input_ids"].shape[1] :].tolist()
            for n, group in enumerate(groups):
                group += [_said(ids, ends, processor.tokenizer) for ids in out[n * count : (n + 1) * count]]
        said += groups
    model.train(was_training)
    return said


def with_image_part(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The turns with the image's place before the user's words, as TRL makes them."""
    from trl.data_utils import prepare_multimodal_messages

    return list(prepare_multimodal_messages(list(messages), images=[None]))


def _said(ids: list[int], ends: set[int], tokenizer: Any) -> Said:
    length = next((n + 1 for n, token in enumerate(ids) if token in ends), len(ids))
    finished = bool(ids) and ids[length - 1] in ends
    return Said(tokenizer.decode(ids[:length], skip_special_tokens=True), length, finished)


@contextlib.contextmanager
def answering(trainer: Any) -> Iterator[Any]:
    """The whole model of a trainer, ready to generate, whatever shards it. Random numbers are as before afterwards."""
    from trl.distributed import DistributedBackend
    from trl.models.utils import unwrap_model_for_generation

    backend = DistributedBackend(trainer.accelerator)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with (
        torch.random.fork_rng(devices=devices),
        unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model,
        backend.summon_full_params(trainer.model_wrapped, recurse=False),
        trainer.accelerator.autocast(),
    ):
        yield model


class GreedyValidation:
    """Before a trainer class: `evaluate` is the reward of greedy answers, and no loss.

    TRL would score sampled answers, and a supervised trainer the loss of the right ones; neither says how well a
    greedy answer does, which is what the node gives.
    """

    configuration: Configuration
    terms: list[Term]
    on_answers: Callable[[int, Sequence[dict[str, Any]], Sequence[Said], dict[str, list[float]]], None] | None = None

    def evaluate(
        self: Any, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        began = time.perf_counter()
        c: Configuration = self.configuration
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        # As many for every process, or those that shard a model would wait for each other; doubles don't count.
        mine = [n % len(rows) for n in range(rank, -(-len(rows) // world) * world, world)]
        part = [rows[n] for n in mine]
        with answering(self) as model:
            said = [
                s[0] for s in answer(model, self.processing_class, part, tokens=c.completion, batch=c.batch.evaluation)
            ]
        columns = {key: [row[key] for row in part] for key in part[0] if key not in ("prompt", "completion")}
        values = {t.__name__: t(completions=[s.text for s in said], **columns) for t in self.terms}
        sums = np.array(list(values.values())).T @ np.array(weights(c))
        table = np.column_stack(
            [sums, [s.tokens for s in said], [not s.finished for s in said], *(values[name] for name in values)]
        )
        counted = np.array([n < len(rows) for n in range(rank, -(-len(rows) // world) * world, world)])
        totals = torch.tensor(np.append(table[counted].sum(0), counted.sum()), device=self.accelerator.device)
        totals = self.accelerator.reduce(totals, reduction="sum")
        means = (totals[:-1] / totals[-1]).tolist()
        names = ["reward", "length", "truncated", *(f"rewards/{name}" for name in values)]
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in zip(names, means, strict=True)}
        metrics[f"{metric_key_prefix}_rows"] = int(totals[-1].item())
        metrics[f"{metric_key_prefix}_seconds"] = round(time.perf_counter() - began, 3)
        if self.on_answers is not None and self.accelerator.is_main_process:
            self.on_answers(self.state.global_step, part, said, values)
        self.model.eval()  # TRL files what is logged under training or evaluation by this
        self.log(dict(metrics))
        self.model.train()
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
