"""TRL's GRPOTrainer with image and prompt encoded once per group: the same loss, faster on CPUs and single small GPUs.

Only three things are replaced: how prompts are processed, how completions are sampled and how log-probabilities are
computed. The rest, the loss included, is TRL's own code; tests/test_shared_prefix.py compares loss and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from training.finetune.group_forward import GroupForward, Prompts


class SharedPrefixGRPOTrainer(GRPOTrainer):
    """Raises ValueError where it does not fit: several processes, vLLM, or a model that GroupForward does not read.

    With LoRA the reference is the policy with its adapters turned off, as in TRL; a dropout of theirs is drawn once for
    a group's prompt. Over a bfloat16 base log-probabilities are TRL's within its rounding, under bf16 autocast within
    about twice that. Over a base of 4 bits, which needs CUDA, it has not been run.
    """

    model: Any
    args: Any
    num_generations_eval: Any
    _again: Callable[[Any], Any] | None = None  # divergence.StopsDiverged's

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.accelerator.num_processes > 1:
            raise ValueError("the shared prefix runs in one process; use `engine: stock` for several")
        if self.use_vllm:
            raise ValueError("vLLM shares prefixes by itself; use `engine: stock`")
        asked = {"min_p": self.min_p, "generation_kwargs": self.args.generation_kwargs}
        asked["repetition_penalty"] = None if self.repetition_penalty == 1.0 else self.repetition_penalty
        if other := [name for name, value in asked.items() if value]:
            raise ValueError(f"the shared prefix does not know {', '.join(other)}; use `engine: stock`")
        self._policy = GroupForward(self.accelerator.unwrap_model(self.model))
        self._reference = GroupForward(self.ref_model) if self.ref_model is not None else self._policy
        self._generator = torch.Generator(device=self.accelerator.device)

    # Prompts --------------------------------------------------------------------------------------------------------

    @property
    def _count(self) -> int:
        count: Any = self.num_generations if self.model.training else self.num_generations_eval
        return int(count)

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        """One of each group is processed; TRL hands over every prompt once per completion."""
        ids, images, fields = super()._tokenize_prompts(prompts[:: self._count])
        if images is not None and any(len(i or []) != 1 for i in images):
            raise ValueError("the shared prefix takes one image per prompt")
        # The same objects again and again: the processor sees which images are one.
        ids, images = (None if x is None else [v for v in x for _ in range(self._count)] for x in (ids, images))
        return ids, images, fields

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, *_: Any, **__: Any
    ) -> tuple[list[list[int]], None]:
        ids = [torch.tensor(i) for i in prompt_ids[::num_generations]]
        longest = max(map(len, ids))
        device = self.accelerator.device

        def padded(rows: Sequence[Tensor], value: int) -> Tensor:
            return torch.stack([torch.nn.functional.pad(r, (longest - len(r), 0), value=value) for r in rows])

        prompts = Prompts(
            padded(ids, self._tokenizer.pad_token_id).to(device),
            padded([torch.ones_like(i) for i in ids], 0).to(device),
            padded([torch.tensor(t) for t in multimodal_fields["mm_token_type_ids"]], 0).to(device),
            torch.as_tensor(multimodal_fields["pixel_values"]).to(device),
            torch.as_tensor(multimodal_fields["image_grid_thw"]).to(device),
        )
        # Seeded by the step and not by what was drawn before, so that a continued run draws what it would have drawn.
        self._generator.manual_seed(self.args.seed * 1_000_003 + self.state.global_step)
        training = self.model.training
        with torch.no_grad(), self.accelerator.autocast():
            texts = self._policy.sample(
                self._policy.encode(prompts),
                num_generations,
                max_new_tokens=int(self.max_completion_length or 0),
                stop=self.eos_token_ids,
                temperature=self.temperature if training else 0.0,
                top_p=self.top_p if training else 1.0,
                top_k=(self.top_k or 0) if training else 0,
                never=self.generation_config.suppress_tokens or (),
                generator=self._generator,
            )
        return texts, None

    # Log-probabilities ----------------------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        num_images: list[int] | None = None,
        mm_token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        if pixel_values is None or image_grid_thw is None or mm_token_type_ids is None:
            raise ValueError("the shared prefix is for prompts with an image")
        if torch.is_grad_enabled():
            self._again = partial(
                self._log_probs_again,
                input_ids=input_ids,
                attention_mask=attention_mask,
                logits_to_keep=logits_to_keep,
                batch_size=batch_size,
                pixel_values=pixel_values,
                image_grid_thw=image_grid_thw,
                mm_token_type_ids=mm_token_type_ids,
            )
        forward = self._reference if model is self.ref_model else self._policy
        rows = len(input_ids)
        logps, entropies = [], []
        for start in range(0, rows, batch_size or rows):
            part = slice(start, start + (batch_size or rows))
            ids, real = input_ids[part, :-logits_to_keep], attention_mask[part, :-logits_to_keep]
            patches = image_grid_thw.prod(-1)
            edges = torch.cat([patches.new_zeros(1), patches.cumsum(0)]).tolist()
            images = [pixel_values[edges[n] : edges[n + 1]] for n in range(*part.indices(rows))]
            first, group = _groups(ids, images)
            with self.accelerator.autocast():
                prefix = forward.encode(
                    Prompts(
                        ids[first],
                        real[first],
                        mm_token_type_ids[part, :-logits_to_keep][first],
                        torch.cat([images[n] for n in first]),
                        image_grid_thw[part][first],
                    )
                )
                found, spread = forward.log_probs(
                    prefix,
                    torch.tensor(group, device=ids.device),
                    input_ids[part, -logits_to_keep:],
                    attention_mask[part, -logits_to_keep:],
                    self.temperature,
                )
            logps.append(found)
            entropies.append(spread.detach() if not self._entropy_bonus_enabled else spread)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _log_probs_again(self, model: Any, **inputs: Any) -> dict[str, Tensor]:
        """Of what was last learnt from, for StopsDiverged."""
        return {"log-probabilities": self._get_per_token_logps_and_entropies(model, **inputs)[0]}


def _groups(ids: Tensor, images: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """Rows with the same prompt over the same image: the first row of each group, and each row's group."""
    first: list[int] = []
    group: list[int] = []
    known: dict[tuple[Any, ...], list[int]] = {}
    for n, (row, image) in enumerate(zip(ids.tolist(), images, strict=True)):
        alike = known.setdefault((tuple(row), tuple(image.shape), float(image.sum())), [])
        number = next((g for g in alike if torch.equal(images[first[g]], image)), None)
        if number is None:
            number = len(first)
            first.append(n)
            alike.append(number)
        group.append(number)
    return first, group
