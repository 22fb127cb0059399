"""A Qwen2.5-VL that reads image and prompt once for a whole group of completions, for training and for sampling.

GRPO compares n completions of one prompt. The library encodes image and prompt n times; here their keys and values are
computed once, with gradients, and every completion of the group attends to them. The results are the library's
(tests/test_group_forward.py). The layers are called as modules, so LoRA's are called too; wrappers that gather weights
around a module's forward (FSDP, DeepSpeed ZeRO-3) are not supported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BUCKETS = 4  # completions are read in so many parts of like length, so that one long one does not pad all


@dataclass(frozen=True)
class Prompts:
    """G prompts, padded on the left. ids, mask, types (G, P): token ids, 1 = real, 1 = image token.

    pixels: patches of all images as the library's image processor gives them; grid (images, 3).
    """

    ids: Tensor
    mask: Tensor
    types: Tensor
    pixels: Tensor | None = None
    grid: Tensor | None = None


@dataclass(frozen=True)
class Prefix:
    """What completions need of G prompts: per layer keys and values (G, key heads, P, d), turned to their positions.

    mask (G, P) bool; last (G, C): the hidden state that predicts a completion's first token; next (G,): its position.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor
    last: Tensor
    next: Tensor


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding; x (B, heads, T, d), cos and sin (B, 1, T, d)."""
    a, b = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat((-b, a), -1) * sin.to(x.dtype)


class GroupForward:
    def __init__(self, model: Any) -> None:
        """model: Qwen2_5_VLForConditionalGeneration, or PEFT's wrapper of one. Raises ValueError for another."""
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        if model.config.model_type != "qwen2_5_vl":
            raise ValueError(f"the shared prefix is written for qwen2_5_vl, not for {model.config.model_type}")
        self.model = model
        self.language = model.model.language_model
        config = self.language.config
        if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
            raise ValueError("the shared prefix needs full attention in every layer; this model has sliding windows")
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self._towers: dict[int, Any] = {}

    # One layer, whatever is attended to -----------------------------------------------------------------------

    def _project(self, layer: Any, h: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = layer.input_layernorm(h)
        attention = layer.self_attn
        batch, length = h.shape[:2]
        q = attention.q_proj(z).view(batch, length, self.heads, -1).transpose(1, 2)
        k = attention.k_proj(z).view(batch, length, self.key_heads, -1).transpose(1, 2)
        v = attention.v_proj(z).view(batch, length, self.key_heads, -1).transpose(1, 2)
        return _turn(q, cos, sin), _turn(k, cos, sin), v

    def _finish(self, layer: Any, h: Tensor, attended: Tensor) -> Tensor:
        """attended (B, heads, T, d)."""
        h = h + layer.self_attn.o_proj(attended.transpose(1, 2).reshape(h.shape[0], h.shape[1], -1))
        return h + layer.mlp(layer.post_attention_layernorm(h))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=self.heads != self.key_heads)

    def _turns(self, position: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """position (3, B, T) or, for text alone, (B, T)."""
        if position.dim() == 2:
            position = position[None].expand(3, -1, -1)
        cos, sin = self.language.rotary_emb(like, position)
        return cos[:, None], sin[:, None]

    def _run(self, step: Any, *tensors: Tensor) -> Any:
        """A layer, recomputed in the backward pass where the model asks for gradient checkpointing."""
        if getattr(self.language, "gradient_checkpointing", False) and torch.is_grad_enabled():
            return checkpoint(step, *tensors, use_reentrant=False)
        return step(*tensors)

    # Prompts ----------------------------------------------------------------------------------------------------

    def see(self, pixels: Tensor, grid: Tensor) -> Tensor:
        """Image tokens (sum of tokens, C). Equal squares that the windows divide go through a batched tower."""
        from training.finetune.fast_vision import FastVision

        side = int(grid[0, 1])
        if bool((grid == torch.tensor([1, side, side], device=grid.device)).all()) and FastVision.fits(
            self.model, side
        ):
            if side not in self._towers:
                self._towers[side] = FastVision(self.model, side, device=pixels.device)
            tokens: Tensor = self._towers[side].patches(pixels.view(len(grid), side * side, -1))
            return tokens.reshape(-1, tokens.shape[-1])
        return torch.cat(list(self.model.model.get_image_features(pixels, grid).pooler_output))

    def encode(self, prompts: Prompts) -> Prefix:
        h = self.language.embed_tokens(prompts.ids)
        if prompts.pixels is not None and prompts.grid is not None:
            seen = self.see(prompts.pixels, prompts.grid).to(h.dtype)
            where = prompts.ids == self.model.config.image_token_id
            if int(where.sum()) != len(seen):
                raise ValueError(f"{int(where.sum())} image tokens in the prompts, {len(seen)} from the images")
            h = h.masked_scatter(where[..., None], seen)
        position, _ = self.model.model.get_rope_index(
            prompts.ids, prompts.types, image_grid_thw=prompts.grid, attention_mask=prompts.mask
        )
        cos, sin = self._turns(position, h)
        real = prompts.mask.bool()
        length = real.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=h.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=h.device)  # padding sees itself, else it sees nothing
        mask = (causal & real[:, None, :] | itself)[:, None]
        keys, values = [], []
        for layer in self.language.layers:

            def step(h: Tensor, layer: Any = layer) -> tuple[Tensor, Tensor, Tensor]:
                q, k, v = self._project(layer, h, cos, sin)
                return self._finish(layer, h, self._attend(q, k, v, mask)), k, v

            h, k, v = self._run(step, h)
            keys.append(k)
            values.append(v)
        following = position.masked_fill(~real, -1).amax((0, 2)) + 1
        return Prefix(keys, values, real, self.language.norm(h[:, -1]), following)

    # Completions ------------------------------------------------------------------------------------------------

    def _read(self, prefix: Prefix, group: Tensor, ids: Tensor) -> Tensor:
        """Hidden states (N, T, C) of completions ids (N, T), padded on the right; group (N,): of which prompt."""
        h = self.language.embed_tokens(ids)
        length = ids.shape[1]
        cos, sin = self._turns(prefix.next[group][:, None] + torch.arange(length, device=ids.device), h)
        causal = torch.ones(length, length, dtype=torch.bool, device=h.device).tril()
        before = prefix.mask[group][:, None, :].expand(-1, length, -1)
        mask = torch.cat([before, causal[None].expand(len(ids), -1, -1)], 2)[:, None]
        for layer, keys, values in zip(self.language.layers, prefix.keys, prefix.values, strict=True):

            def step(h: Tensor, keys: Tensor, values: Tensor, layer: Any = layer) -> Tensor:
                q, k, v = self._project(layer, h, cos, sin)
                k, v = torch.cat([keys[group], k], 2), torch.cat([values[group], v], 2)
                return self._finish(layer, h, self._attend(q, k, v, mask))

            h = self._run(step, h, keys, values)
        return self.language.norm(h)

    def logits(self, prefix: Prefix, group: Tensor, ids: Tensor) -> Tensor:
        """What predicts every token of completions ids (N, T): (N, T, vocabulary)."""
        hidden = prefix.last[group][:, None]
        if ids.shape[1] > 1:
            hidden = torch.cat([hidden, self._read(prefix, group, ids[:, :-1])], 1)
        found: Tensor = self.model.lm_head(hidden).float()
        return found

    def log_probs(
        self, prefix: Prefix, group: Tensor, ids: Tensor, mask: Tensor, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy (nats) of every token of completions ids (N, T); 0 where mask (N, T) is."""
        lengths = mask.sum(1)
        order = torch.argsort(lengths)
        rows, found, spread = [], [], []
        for part in order.chunk(BUCKETS):
            longest = max(1, int(lengths[part].max()))
            logits = self.logits(prefix, group[part], ids[part, :longest]) / temperature
            logp = F.log_softmax(logits, -1)
            chosen = logp.gather(-1, ids[part, :longest, None])[..., 0]
            entropy = -(logp.exp() * logp).sum(-1)
            cut = mask[part, :longest].bool()
            rest = (0, ids.shape[1] - longest)
            found.append(F.pad(chosen.masked_fill(~cut, 0.0), rest))
            spread.append(F.pad(entropy.masked_fill(~cut, 0.0), rest))
            rows.append(part)
        back = torch.argsort(torch.cat(rows))
        return torch.cat(found)[back], torch.cat(spread)[back]

    def extend(self, prefix: Prefix, group: Tensor, ids: Tensor, mask: Tensor) -> Prefix:
        """The prefix of prompts that go on after shared beginnings: N texts ids (N, T), padded on the right, each after
        the beginning group (N,) of prefix. For several questions over one image."""
        h = self.language.embed_tokens(ids)
        length = ids.shape[1]
        real, lengths = mask.bool(), mask.sum(1)
        cos, sin = self._turns(prefix.next[group][:, None] + torch.arange(length, device=ids.device), h)
        causal = torch.ones(length, length, dtype=torch.bool, device=h.device).tril()
        before = prefix.mask[group]
        seen = torch.cat([before[:, None].expand(-1, length, -1), causal[None].expand(len(ids), -1, -1)], 2)[:, None]
        keys, values = [], []
        for depth, layer in enumerate(self.language.layers):
            q, k, v = self._project(layer, h, cos, sin)
            keys.append(torch.cat([prefix.keys[depth][group], k], 2))
            values.append(torch.cat([prefix.values[depth][group], v], 2))
            h = self._finish(layer, h, self._attend(q, keys[-1], values[-1], seen))
        last = h[torch.arange(len(ids), device=h.device), lengths - 1]
        return Prefix(
            keys, values, torch.cat([before, real], 1), self.language.norm(last), prefix.next[group] + lengths
        )

    # Sampling ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        prefix: Prefix,
        count: int,
        *,
        max_new_tokens: int,
        stop: Sequence[int],
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        never: Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> list[list[int]]:
        """`count` completions per prompt, in the order of the prompts, each to its stop token (included) or cut off.

        temperature 0: the likeliest token. top_p 1 and top_k 0 take all tokens. never: tokens that are not written.
        """
        device = prefix.last.device
        row = torch.arange(len(prefix.last) * count, device=device)
        group = row // count
        stops = torch.tensor(list(stop), device=device)
        texts: list[list[int]] = [[] for _ in row]
        position = prefix.next[group]
        logits = self.model.lm_head(prefix.last)[group]
        cache: _Cache | None = None
        for length in range(max_new_tokens):
            logits[:, list(never)] = -torch.inf
            token = _draw(logits.float(), temperature, top_p, top_k, generator)
            for n, t in zip(row.tolist(), token.tolist(), strict=True):
                texts[n].append(t)
            going = ~torch.isin(token, stops)
            if not bool(going.any()) or length + 1 == max_new_tokens:
                break
            if cache is None:  # not before the first token: prompts that end at once need no copies
                cache = _Cache(prefix, group)
            if int(going.sum()) <= 0.75 * len(row):
                # Copied only when enough have ended; until then the ended ones go along unheard.
                row, position, token = row[going], position[going], token[going]
                cache.keep(going)
                going = going[going]
            h = self.language.embed_tokens(token[:, None])
            cos, sin = self._turns((position + length)[:, None], h)
            for depth, layer in enumerate(self.language.layers):
                q, k, v = self._project(layer, h, cos, sin)
                h = self._finish(layer, h, cache.attend(depth, length, q, k, v))
            logits = self.model.lm_head(self.language.norm(h[:, 0]))
            if not bool(going.all()):
                logits[~going] = -torch.inf
                logits[~going, stops[0]] = 0.0
        return [_to_stop(t, set(stop)) for t in texts]


class _Cache:
    """Keys and values of rows that are being sampled: the prompt's, and their own. Batches of matrices (N * key heads,
    tokens, d), since a slice of such goes into bmm without a copy."""

    STEP = 32  # tokens of room that are added at once

    def __init__(self, prefix: Prefix, group: Tensor) -> None:
        self.rows, self.heads = len(group), prefix.keys[0].shape[1]
        self.before = [(k[group].flatten(0, 1), v[group].flatten(0, 1)) for k, v in self._pairs(prefix)]
        self.hidden = ~prefix.mask[group]
        self.padded = bool(self.hidden.any())
        self.own = [(k[:, :0], v[:, :0]) for k, v in self.before]

    @staticmethod
    def _pairs(prefix: Prefix) -> list[tuple[Tensor, Tensor]]:
        return list(zip(prefix.keys, prefix.values, strict=True))

    def keep(self, rows: Tensor) -> None:
        """rows (N,) bool."""
        chosen = rows.repeat_interleave(self.heads)
        self.before = [(k[chosen], v[chosen]) for k, v in self.before]
        self.own = [(k[chosen], v[chosen]) for k, v in self.own]
        self.hidden = self.hidden[rows]
        self.rows = len(self.hidden)

    def attend(self, depth: int, length: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One token per row, the one after `length` others; q (N, heads, 1, d), k and v (N, key heads, 1, d)."""
        keys, values = self.own[depth]
        if length == keys.shape[1]:
            room = keys.new_zeros(keys.shape[0], self.STEP, keys.shape[2])
            keys, values = torch.cat([keys, room], 1), torch.cat([values, room], 1)
            self.own[depth] = keys, values
        keys[:, length], values[:, length] = k.flatten(0, 2), v.flatten(0, 2)
        first_k, first_v = self.before[depth]
        size = q.shape[-1]
        q = q.reshape(self.rows * self.heads, -1, size) * size**-0.5
        scores = torch.cat(
            [torch.bmm(q, first_k.transpose(1, 2)), torch.bmm(q, keys[:, : length + 1].transpose(1, 2))], 2
        )
        if self.padded:
            hidden = self.hidden[:, None, None, :].expand(-1, self.heads, scores.shape[1], -1)
            scores[..., : hidden.shape[-1]].masked_fill_(hidden.flatten(0, 1), -torch.inf)
        weights = torch.softmax(scores, -1)
        cut = first_k.shape[1]
        out = torch.bmm(weights[..., :cut], first_v) + torch.bmm(weights[..., cut:], values[:, : length + 1])
        return out.view(self.rows, -1, 1, size)


def _draw(logits: Tensor, temperature: float, top_p: float, top_k: int, generator: torch.Generator | None) -> Tensor:
    """One token per row of logits (N, vocabulary)."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    if top_k:
        least = logits.topk(min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, at = logits.sort(descending=True)
        share = ordered.softmax(-1)
        # The token that reaches top_p is kept.
        beyond = share.cumsum(-1) - share >= top_p
        logits = logits.masked_fill(beyond.scatter(1, at, beyond), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def _to_stop(ids: list[int], stop: set[int]) -> list[int]:
    end = next((n for n, t in enumerate(ids) if t in stop), len(ids))
    return ids[: end + 1]
