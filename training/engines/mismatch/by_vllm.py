"""The sampler's engine: vLLM."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segzero_ros.profiles import load_profile
from training.engines.mismatch.completions import Completion
from training.engines.mismatch.prompts import Prompts


class VLLM:
    """In process, without CUDA graphs or compilation. Log-probabilities are those before temperature and truncation."""

    def __init__(self, prompts: Prompts, dtype: str, work: Path) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process, so that its samples are seeded from here
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        import vllm

        self.profile = load_profile(prompts.profile)
        folder = with_processor(_checkpoint_folder(prompts.checkpoint), work / "vllm-checkpoint", self.profile.square)
        self.name = f"vllm {vllm.__version__}, {dtype}"
        longest = max(len(prompts.expanded(i)) for i in range(len(prompts.items))) + self.profile.max_new_tokens
        self.llm = vllm.LLM(
            str(folder),
            dtype=dtype,
            max_model_len=longest,
            max_num_seqs=32,
            enforce_eager=True,
            enable_prefix_caching=False,
            limit_mm_per_prompt={"image": 1, "video": 0},
            seed=0,
        )

    def _asked(self, prompts: Prompts, items: Sequence[int], more: Sequence[Sequence[int]]) -> list[Any]:
        from PIL import Image

        return [
            {
                "prompt_token_ids": [*prompts.items[i].ids, *m],
                "multi_modal_data": {"image": Image.fromarray(prompts.items[i].image)},
            }
            for i, m in zip(items, more, strict=True)
        ]

    def sample(self, prompts: Prompts, samples: int, seed: int) -> Iterator[Completion]:
        import torch
        from vllm import SamplingParams

        torch.manual_seed(seed)  # a seed of its own per request is what vLLM's CPU build cannot take
        items = range(len(prompts.items))
        params = SamplingParams(
            n=samples,
            temperature=1.0,
            top_p=1.0,
            top_k=-1,
            max_tokens=self.profile.max_new_tokens,
            logprobs=0,
            detokenize=False,
        )
        found = self.llm.generate(self._asked(prompts, items, [[]] * len(items)), params)
        for item, one in enumerate(found):
            _same(one.prompt_token_ids, prompts.expanded(item), item)
            for out in one.outputs:
                ids = list(out.token_ids)
                yield Completion(item, ids, [v[t].logprob for v, t in zip(out.logprobs, ids, strict=True)])

    def score(self, prompts: Prompts, completions: Sequence[Completion]) -> Iterator[list[float]]:
        from vllm import SamplingParams

        params = SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        asked = self._asked(prompts, [c.item for c in completions], [c.ids for c in completions])
        for one, completion in zip(self.llm.generate(asked, params), completions, strict=True):
            _same(one.prompt_token_ids, [*prompts.expanded(completion.item), *completion.ids], completion.item)
            last = one.prompt_logprobs[-len(completion.ids) :]
            yield [v[t].logprob for v, t in zip(last, completion.ids, strict=True)]


def _same(seen: Sequence[int], meant: Sequence[int], item: int) -> None:
    """An image expanded twice, or to another number of tokens, would be measured as a mismatch."""
    if list(seen) != list(meant):
        raise ValueError(f"item {item}: vLLM saw a prompt of {len(seen)} tokens, and {len(meant)} were meant")


def _checkpoint_folder(name: str) -> Path:
    from segzero_ros.models import checkpoints

    return Path(checkpoints.resolve(name, "reasoner", offline=True))


def with_processor(checkpoint: Path, folder: Path, square: int) -> Path:
    """The checkpoint, with the processor's files that a server's own processor reads where it has none."""
    if (checkpoint / "preprocessor_config.json").exists():
        return checkpoint
    from training.finetune.processor_files import write_processor_files

    folder.mkdir(parents=True, exist_ok=True)
    for path in checkpoint.iterdir():
        link = folder / path.name
        if not link.exists():
            link.symlink_to(path.resolve())
    write_processor_files(folder, square)
    return folder
