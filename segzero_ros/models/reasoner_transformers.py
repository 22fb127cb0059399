"""The reasoning model by transformers: squares and prompts in, texts out. Qwen2.5-VL, Qwen3-VL and Qwen3.5.

Inputs are built by hand, since the library's processors need torchvision: one path with and without a GPU.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from segzero_ros.core.answer_schema import check_grammar, warn_of_room
from segzero_ros.core.contract import (
    Cancel,
    Generation,
    Image,
    LoadedModel,
    OnProgress,
    OnText,
    Sampling,
    SegzeroError,
    Status,
    Stopped,
    ThoughtBudget,
)
from segzero_ros.core.profiles import Profile
from segzero_ros.models.grammar import Grammar
from segzero_ros.models.loading import Checkpoint, Placement, choose_checkpoint, load_model, wanted_dtype
from segzero_ros.models.steering import Steering
from segzero_ros.models.stopping import stoppable
from segzero_ros.models.vocabulary import load_tokenizer

log = logging.getLogger(__name__)

# preprocessor_config.json of the published checkpoints.
_NORMS = {
    "qwen2_5_vl": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "qwen3_vl": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "qwen3_5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def load_reasoner(
    profile: Profile,
    checkpoint: str | None = None,
    revision: str | None = None,
    *,
    adapter: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    attention: str | None = None,
    offline: bool = False,
    constrain: bool | None = None,
    on_progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> TransformersReasoner:
    """Loads a checkpoint folder or hub name, with a LoRA adapter merged where one is given here or in the profile.

    The profile's adapter goes with its own reasoner only. constrain: answers are held to the profile's grammar; None:
    as the profile says. Raises SegzeroError with a sentence for what is missing or broken.
    """
    constrain = profile.constrain if constrain is None else constrain
    if constrain:
        check_grammar(profile)
    own = Checkpoint(
        profile.reasoner,
        profile.reasoner_revision,
        profile.subfolder,
        profile.adapter,
        profile.adapter_revision,
        profile.adapter_subfolder,
    )
    wanted = choose_checkpoint(own, checkpoint, revision)
    if profile.adapter and not wanted.adapter and not adapter:
        raise SegzeroError(
            Status.NOT_READY,
            f"profile {profile.name} merges the adapter {profile.adapter} into its own reasoner; with another one say"
            " adapter, too: its folder or name, or none where it is merged already",
        )
    if adapter:
        given = None if adapter == "none" else adapter
        wanted = replace(wanted, adapter=given, adapter_revision=None, adapter_subfolder=None)
    placement = Placement(device, wanted_dtype(dtype, profile), attention, offline)
    types = {profile.model_class}
    model, folder, info = load_model(_model_class(profile), wanted, "reasoner", types, placement, on_progress, cancel)
    tokenizer = load_tokenizer(folder, model)
    # A file's other settings (beams, penalties, outputs) are not the checkpoint's but its publisher's wishes.
    own_ends = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=own_ends.eos_token_id, pad_token_id=own_ends.pad_token_id)
    return TransformersReasoner(model, tokenizer, profile, info, constrain=constrain)


def _model_class(profile: Profile) -> Any:
    if profile.model_class == "qwen3_vl":
        from transformers import Qwen3VLForConditionalGeneration

        return Qwen3VLForConditionalGeneration
    if profile.model_class == "qwen3_5":
        from transformers import Qwen3_5ForConditionalGeneration

        return Qwen3_5ForConditionalGeneration
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration


class TransformersReasoner:
    """See contract.Reasoner. Not thread-safe: one thread owns it."""

    def __init__(
        self, model: Any, tokenizer: Any, profile: Profile, info: LoadedModel, *, constrain: bool = False
    ) -> None:
        self.model, self.tokenizer, self.profile, self.info = model, tokenizer, profile, info
        vision = model.config.vision_config
        self.patch, self.merge = vision.patch_size, vision.spatial_merge_size
        self.temporal = vision.temporal_patch_size
        cell = self.patch * self.merge
        if profile.square % cell:
            raise SegzeroError(
                Status.NOT_READY, f"profile {profile.name}: square {profile.square} is no multiple of {cell} pixels"
            )
        self.image_tokens = (profile.square // cell) ** 2
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in _NORMS[profile.model_class])
        self._image_id = model.config.image_token_id
        before, after = self._chat()
        self._before, self._after = self._encode(before), self._encode(after)
        end = model.generation_config.eos_token_id
        ends = end if isinstance(end, list) else [end]
        self._ends = {*ends, tokenizer.convert_tokens_to_ids("<|im_end|>")} - {None}
        rows = model.get_output_embeddings().weight.shape[0]
        self._grammar = Grammar(tokenizer, profile, self._ends, rows) if constrain else None
        if self._grammar and (why := warn_of_room(self._grammar.room, profile.max_new_tokens)):
            log.warning(why)

    def _chat(self) -> tuple[str, str]:
        """Qwen's chat format around image and prompt, written by hand: no checkpoint's template is run."""
        system = self.profile.system
        head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        thought = {"written": "", "opened": "<think>\n", "closed": "<think>\n\n</think>\n\n"}[self.profile.thinking]
        return head + "<|im_start|>user\n<|vision_start|>", "<|im_end|>\n<|im_start|>assistant\n" + thought

    def _encode(self, text: str, *, hostile: bool = False) -> list[int]:
        """hostile: special tokens in the text are spelled out and not obeyed."""
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return list(self.tokenizer.encode(clean, add_special_tokens=False, split_special_tokens=hostile))

    def prompt_ids(self, prompt: str) -> list[int]:
        end = self.tokenizer.convert_tokens_to_ids("<|vision_end|>")
        image = [self._image_id] * self.image_tokens
        return [*self._before, *image, end, *self._encode(prompt, hostile=True), *self._after]

    def pixel_values(self, squares: list[Image]) -> torch.Tensor:
        """(sum of patches, channels x temporal x patch x patch), patches in the order of merged cells."""
        side, p, m = self.profile.square, self.patch, self.merge
        grid = side // p // m
        images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255
        x = ((images - self.mean) / self.std).view(len(squares), 3, grid, m, p, grid, m, p)
        x = x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, 3, 1, p * p)
        return x.expand(-1, 3, self.temporal, p * p).reshape(len(squares) * (grid * m) ** 2, -1)

    @torch.inference_mode()
    def generate(
        self,
        squares: list[Image],
        prompts: list[str],
        *,
        on_text: OnText | None = None,
        cancel: Cancel | None = None,
        sampling: Sampling | None = None,
        max_new_tokens: int | None = None,
        thought_budget: ThoughtBudget | None = None,
    ) -> list[Generation]:
        """Greedy unless sampling is given. Left padding in batches.

        on_text(i, piece) as text comes. Cancel is looked at before every block of the vision tower and of the pass over
        the prompt, then before every token.
        """
        began = time.perf_counter()
        sequences = [self.prompt_ids(p) for p in prompts]
        longest = max(map(len, sequences))
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        ids = torch.tensor([[pad] * (longest - len(s)) + s for s in sequences])
        attended = torch.tensor([[0] * (longest - len(s)) + [1] * len(s) for s in sequences])
        rows = self.profile.square // self.patch
        device = self.model.device
        out = ids  # what there is where the pass over the prompt is stopped: no new token
        # Positions of an earlier call must not leak into this one.
        self.model.model.rope_deltas = None
        stop = _Watch(cancel)
        ends, limit = self._ends, max_new_tokens or self.profile.max_new_tokens
        streamer = _Streamer(self._decode, on_text, began, ends)
        steering = self._steering(len(prompts), longest, limit, thought_budget)
        chosen: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if sampling is not None:
            chosen = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        blocks = [*self.model.model.visual.blocks, *self.model.model.language_model.layers]
        with suppress(Stopped), _seeded(sampling, device), stoppable(blocks, cancel):
            out = self.model.generate(
                input_ids=ids.to(device),
                attention_mask=attended.to(device),
                pixel_values=self.pixel_values(squares).to(device, self.model.dtype),
                image_grid_thw=torch.tensor([[1, rows, rows]] * len(squares), device=device),
                mm_token_type_ids=(ids == self._image_id).int().to(device),
                max_new_tokens=limit,
                **chosen,
                repetition_penalty=1.0,
                eos_token_id=sorted(ends),
                pad_token_id=pad,
                streamer=streamer if len(prompts) == 1 else None,
                stopping_criteria=StoppingCriteriaList([stop]),
                logits_processor=LogitsProcessorList([_Finite(self.model.dtype), *steering]),
            )
        done = []
        for i, row in enumerate(out[:, longest:].tolist()):
            count = next((n for n, t in enumerate(row) if t in ends), len(row))
            finished = count < len(row)
            cancelled = (stop.stopped or not row) and not finished
            cut = any(s.texts[i].cut for s in steering)  # ended in time, and still not as the model would have
            text = self._decode(row[:count])
            if on_text and len(prompts) > 1:
                on_text(i, text)
            done.append(
                Generation(
                    text=text,
                    prompt_tokens=len(sequences[i]),
                    completion_tokens=count,
                    truncated=(cut or not finished) and not cancelled,
                    cancelled=cancelled,
                    first_token=streamer.first or time.perf_counter() - began,
                    thought_ended=any(s.texts[i].ended for s in steering),
                )
            )
        return done

    def _steering(self, texts: int, begin: int, limit: int, budget: ThoughtBudget | None) -> list[Steering]:
        """None where every token may come at any time."""
        if self._grammar is None and budget is None:
            return []
        return [
            Steering(texts, begin, limit, self._ends, self.profile, self._encode, self._decode, self._grammar, budget)
        ]

    def _decode(self, ids: list[int]) -> str:
        """The ids hold no token that ends a turn: `generate` and the streamer cut them off."""
        drop = not self.profile.answers_in_special_tokens
        return str(self.tokenizer.decode(ids, skip_special_tokens=drop, clean_up_tokenization_spaces=False))


@contextmanager
def _seeded(sampling: Sampling | None, device: torch.device) -> Iterator[None]:
    """The library draws from torch's own generator: seeded here, and given back as it was."""
    if sampling is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # by default of every GPU
        torch.manual_seed(sampling.seed)
        yield


class _Finite(LogitsProcessor):
    """The likeliest of numbers that are none is token 0, for Qwen "!", for ever. kind: the weights' format."""

    def __init__(self, kind: torch.dtype) -> None:
        self.kind = str(kind).removeprefix("torch.")

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not scores.amax(-1).isfinite().all():  # NaN is the largest, and what is ruled out is minus infinity
            raise SegzeroError(
                Status.BACKEND_ERROR,
                f"the reasoning model's numbers are not finite in {self.kind}; another dtype may help",
            )
        return scores


class _Watch(StoppingCriteria):
    """Stops before the next token when asked to."""

    def __init__(self, cancel: Cancel | None) -> None:
        self.cancel, self.stopped = cancel, False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        self.stopped = self.cancel is not None and self.cancel.is_set()
        return torch.full((input_ids.shape[0],), self.stopped, device=input_ids.device)


class _Streamer(BaseStreamer):
    """Gives text as it comes, holding back a character whose bytes are not all there."""

    def __init__(
        self, decode: Callable[[list[int]], str], on_text: OnText | None, began: float, ends: set[int]
    ) -> None:
        self.decode, self.on_text, self.began, self.ends = decode, on_text, began, ends
        self.ids: list[int] = []
        self.said = 0
        self.first = 0.0
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self._prompt:  # the library streams the prompt first
            self._prompt = False
            return
        self.first = self.first or time.perf_counter() - self.began
        if self.on_text is None:
            return
        self.ids += [t for t in value.reshape(-1).tolist() if t not in self.ends]
        text = self.decode(self.ids)
        if len(text) > self.said and not text.endswith("\ufffd"):
            self.on_text(0, text[self.said :])
            self.said = len(text)

    def end(self) -> None:
        """A character that stays without its last bytes is told, too."""
        if self.on_text is not None and len(text := self.decode(self.ids)) > self.said:
            self.on_text(0, text[self.said :])
            self.said = len(text)
