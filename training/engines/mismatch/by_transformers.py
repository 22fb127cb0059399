"""The learner's engine: transformers, as the node loads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from segzero_ros.profiles import load_profile
from training.engines.mismatch.completions import Completion
from training.engines.mismatch.prompts import Prompts


class Transformers:
    """As the node loads it; scored in one pass over prompt and completion, as a trainer does."""

    def __init__(self, prompts: Prompts, dtype: str, batch: int = 16) -> None:
        import transformers

        from segzero_ros.models.reasoner_transformers import load_reasoner

        self.name = f"transformers {transformers.__version__}, {dtype}"
        # "autocast": float32 weights and bfloat16 products, as a trainer with bf16 runs.
        self.autocast = dtype == "autocast"
        self.reasoner = load_reasoner(
            load_profile(prompts.profile),
            prompts.checkpoint,
            dtype="float32" if self.autocast else dtype,
            offline=True,
        )
        self.batch = batch

    def _inputs(self, prompts: Prompts, items: Sequence[int], rows: Sequence[Sequence[int]], left: bool) -> Any:
        import torch

        model = self.reasoner.model
        longest = max(map(len, rows))
        pad = self.reasoner.tokenizer.pad_token_id

        def padded(values: Sequence[int], filler: int) -> list[int]:
            more = [filler] * (longest - len(values))
            return [*more, *values] if left else [*values, *more]

        ids = torch.tensor([padded(r, pad) for r in rows])
        grid = self.reasoner.profile.square // self.reasoner.patch
        model.model.rope_deltas = None  # of an earlier call
        return {
            "input_ids": ids,
            "attention_mask": torch.tensor([padded([1] * len(r), 0) for r in rows]),
            "pixel_values": self.reasoner.pixel_values([prompts.items[i].image for i in items]).to(model.dtype),
            "image_grid_thw": torch.tensor([[1, grid, grid]] * len(items)),
            "mm_token_type_ids": (ids == prompts.image_token).int(),
        }

    def sample(self, prompts: Prompts, samples: int, seed: int) -> Iterator[Completion]:
        import torch

        torch.manual_seed(seed)
        model = self.reasoner.model
        ends = model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        wanted = [i for i in range(len(prompts.items)) for _ in range(samples)]
        for start in range(0, len(wanted), self.batch):
            items = wanted[start : start + self.batch]
            rows = [prompts.expanded(i) for i in items]
            with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=self.autocast):
                out = model.generate(
                    **self._inputs(prompts, items, rows, left=True),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=self.reasoner.profile.max_new_tokens,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
                logps = torch.stack(out.logits, 1).float().log_softmax(-1)
            new = out.sequences[:, -logps.shape[1] :]
            chosen = logps.gather(-1, new[..., None])[..., 0]
            for item, ids, values in zip(items, new.tolist(), chosen.tolist(), strict=True):
                count = next((n + 1 for n, t in enumerate(ids) if t in ends), len(ids))
                yield Completion(item, ids[:count], values[:count])

    def score(self, prompts: Prompts, completions: Sequence[Completion]) -> Iterator[list[float]]:
        import torch

        for start in range(0, len(completions), self.batch):
            part = completions[start : start + self.batch]
            heads = [prompts.expanded(c.item) for c in part]
            rows = [[*h, *c.ids] for h, c in zip(heads, part, strict=True)]
            inputs = self._inputs(prompts, [c.item for c in part], rows, left=False)
            with (
                torch.inference_mode(),
                torch.autocast(self.reasoner.model.device.type, torch.bfloat16, enabled=self.autocast),
            ):
                logits = self.reasoner.model(**inputs).logits
            for head, completion, row in zip(heads, part, logits, strict=True):
                at = slice(len(head) - 1, len(head) - 1 + len(completion.ids))
                ids = torch.tensor(completion.ids)
                yield row[at].float().log_softmax(-1).gather(-1, ids[:, None])[:, 0].tolist()
