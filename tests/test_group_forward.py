"""The forward that reads a prompt once for a group: the library's results, gradients and greedy texts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from segzero_ros.models.checkpoints import EMBEDDED
from training.finetune.group_forward import GroupForward, Prompts

pytestmark = pytest.mark.long
WEIGHTS = EMBEDDED / "reasoner"
TEXTS = ("the red mug", "is there something to drink from, please", "all the bricks")
ANSWERS = (
    "<think>The target is the red mug.",
    "<answer>[]</answer>",
    "<think>",
    "red mug",
    "a",
    "I see a blue duck at (",
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(WEIGHTS)


def model(**text: Any) -> Any:
    """The embedded reasoner; with changed text_config a random one of its shape."""
    if not text:
        return Qwen2_5_VLForConditionalGeneration.from_pretrained(WEIGHTS, dtype="float32").eval()
    config = Qwen2_5_VLConfig.from_pretrained(WEIGHTS)
    for name, value in text.items():
        setattr(config.text_config, name, value)
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def prompts(tokenizer: Any, side: int = 28) -> Prompts:
    """Three prompts of unequal length over three random images of side x side patches."""
    torch.manual_seed(0)
    cells = (side // 2) ** 2
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    rows = []
    for text in TEXTS:
        ids = tokenizer.encode("<|im_start|>user\n<|vision_start|>") + [image] * cells
        rows.append(ids + tokenizer.encode(f"<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"))
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows])
    pixels = torch.randn(3 * side * side, 3 * 2 * 8 * 8)
    return Prompts(ids, mask, (ids == image).int(), pixels, torch.tensor([[1, side, side]] * 3))


def completions(tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = [tokenizer.encode(text) for text in ANSWERS]
    longest = max(map(len, rows))
    ids = torch.tensor([r + [0] * (longest - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
    return torch.tensor([0, 1, 2, 2, 0, 1]), ids, mask


def library_log_probs(model: Any, p: Prompts, group: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> Any:
    patches = p.pixels.view(3, -1, p.pixels.shape[-1])[group].flatten(0, 1)  # type: ignore[union-attr]
    logits = model(
        input_ids=torch.cat([p.ids[group], ids], 1),
        attention_mask=torch.cat([p.mask[group], mask], 1),
        mm_token_type_ids=torch.cat([p.types[group], torch.zeros_like(ids, dtype=torch.int)], 1),
        pixel_values=patches,
        image_grid_thw=p.grid[group],  # type: ignore[index]
    ).logits[:, -ids.shape[1] - 1 : -1]
    logp = torch.log_softmax(logits.float(), -1)
    return logp.gather(-1, ids[..., None])[..., 0] * mask, -(logp.exp() * logp).sum(-1) * mask


@pytest.mark.parametrize(
    ("side", "text"),
    [(28, {}), (28, {"num_key_value_heads": 2}), (20, {})],
    ids=["as embedded", "grouped keys", "windows of unequal size"],
)
def test_log_probs_entropies_and_gradients_are_the_librarys(tokenizer: Any, side: int, text: dict[str, int]) -> None:
    ours, theirs = model(**text), model(**text)
    p, (group, ids, mask) = prompts(tokenizer, side), completions(tokenizer)
    weight = torch.randn(ids.shape)
    logp, entropy = (forward := GroupForward(ours)).log_probs(forward.encode(p), group, ids, mask)
    wanted, wanted_entropy = library_log_probs(theirs, p, group, ids, mask)
    torch.testing.assert_close(logp, wanted, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, wanted_entropy, atol=2e-5, rtol=1e-5)
    (logp * weight).sum().backward()
    (wanted * weight).sum().backward()
    other = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        scale = float(other[name].grad.abs().max())
        torch.testing.assert_close(parameter.grad, other[name].grad, atol=1e-4 * scale + 1e-7, rtol=1e-3, msg=name)


def test_recomputing_layers_changes_no_gradient(tokenizer: Any) -> None:
    plain = model()
    p, (group, ids, mask) = prompts(tokenizer), completions(tokenizer)
    recomputed = copy.deepcopy(plain).train()
    recomputed.gradient_checkpointing_enable()
    for one in (plain, recomputed):
        forward = GroupForward(one)
        forward.log_probs(forward.encode(p), group, ids, mask)[0].sum().backward()
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_greedy_samples_are_the_librarys_texts(tokenizer: Any) -> None:
    m, p, end = model(), prompts(tokenizer), tokenizer.convert_tokens_to_ids("<|im_end|>")
    forward = GroupForward(m)
    texts = forward.sample(forward.encode(p), 2, max_new_tokens=60, stop=[end], temperature=0)
    wanted = m.generate(
        input_ids=p.ids,
        attention_mask=p.mask,
        mm_token_type_ids=p.types,
        pixel_values=p.pixels,
        image_grid_thw=p.grid,
        do_sample=False,
        max_new_tokens=60,
        eos_token_id=end,
        pad_token_id=0,
    )[:, p.ids.shape[1] :].tolist()
    cut = [row[: row.index(end) + 1] if end in row else row for row in wanted]
    assert texts == [row for row in cut for _ in range(2)]


def test_samples_follow_the_models_probabilities(tokenizer: Any) -> None:
    m, p = model(), prompts(tokenizer)
    forward = GroupForward(m)
    prefix = forward.encode(p)
    generator = torch.Generator().manual_seed(0)
    hot = forward.sample(prefix, 3000, max_new_tokens=1, stop=[], temperature=2.0, generator=generator)
    wanted = torch.softmax(m.lm_head(prefix.last) / 2.0, -1)[0]
    counted = torch.bincount(torch.tensor([t[0] for t in hot[:3000]]), minlength=len(wanted)) / 3000
    assert float((counted - wanted).abs().sum()) < 0.25


def test_the_scores_of_samples_are_their_log_probs(tokenizer: Any) -> None:
    """What is sampled with ended rows dropped and keys moved is what is scored in one piece."""
    m, p, end = model(), prompts(tokenizer), tokenizer.convert_tokens_to_ids("<|im_end|>")
    forward = GroupForward(m)
    prefix = forward.encode(p)
    first = forward.sample(prefix, 5, max_new_tokens=70, stop=[end], generator=torch.Generator().manual_seed(1))
    again = forward.sample(prefix, 5, max_new_tokens=70, stop=[end], generator=torch.Generator().manual_seed(1))
    assert first == again
    assert len({len(t) for t in first}) > 2
    longest = max(map(len, first))
    ids = torch.tensor([t + [0] * (longest - len(t)) for t in first])
    mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in first])
    group = torch.arange(15) // 5
    ours = forward.log_probs(prefix, group, ids, mask)[0]
    torch.testing.assert_close(ours, library_log_probs(m, p, group, ids, mask)[0], atol=5e-5, rtol=1e-4)
    # Unlikely texts would betray a wrong step; most of them, since at temperature 1 one may run wild.
    assert float(ours.sum(1).median()) > -60


def test_top_p_and_top_k_keep_the_likeliest(tokenizer: Any) -> None:
    forward = GroupForward(model())
    prefix = forward.encode(prompts(tokenizer))
    greedy = forward.sample(prefix, 1, max_new_tokens=5, stop=[], temperature=0)
    assert forward.sample(prefix, 1, max_new_tokens=5, stop=[], top_k=1) == greedy
    assert forward.sample(prefix, 1, max_new_tokens=5, stop=[], top_p=1e-6) == greedy


def test_images_that_do_not_fill_their_places_are_refused(tokenizer: Any) -> None:
    p = prompts(tokenizer)
    with pytest.raises(ValueError, match="image tokens"):
        GroupForward(model()).encode(Prompts(p.ids[:, :-60], p.mask[:, :-60], p.types[:, :-60], p.pixels, p.grid))


def test_other_models_are_refused() -> None:
    class Other:
        class config:
            model_type = "llama"

    with pytest.raises(ValueError, match="llama"):
        GroupForward(Other())


def test_weights_are_there() -> None:
    assert Path(WEIGHTS / "model.safetensors").is_file()
