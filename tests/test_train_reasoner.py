"""The fast forward is the library's; pieces of an answer are the answer; a killed run continues."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from training.data.tabletop.instructions import KINDS, answer, write
from training.data.tabletop.store import Scenes, render_shard
from training.embedded.batch import PREFIX, SUFFIX, Instructions, Writer, make_batch, segments
from training.embedded.mix import mix
from training.embedded.prefetch import made_ahead
from training.embedded.reasoner import GRID, PATCHES, SMOKE, FastLanguage, build, export, go_on_from, library_inputs
from training.embedded.reasoner_optimisers import Muon
from training.embedded.tokenizer import build_tokenizer, words
from training.embedded.train_reasoner import Settings, train
from training.finetune.fast_vision import FastVision


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 12), ("val", 8)):
        (root / split).mkdir()
        render_shard(root / split, split, 0, count, depth=False)
    return root


def test_numbers_are_single_tokens_and_any_text_survives() -> None:
    tokenizer = build_tokenizer()
    assert len(tokenizer.encode("224", add_special_tokens=False)) == 1
    for text in ("the red mug", "Überraschung 日本語 🤖", "a\tb", '[{"bbox_2d": [1, 2, 3, 4]}]'):
        ids = tokenizer.encode(text, add_special_tokens=False)
        if text.isascii() and "\t" not in text:
            assert tokenizer.decode(ids) == text
        assert ids


@given(st.text("abcdefghijklmnopqrstuvwxyz", max_size=4), st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=4))
def test_no_known_word_is_read_within_an_unknown_one(before: str, after: str) -> None:
    word = f"{before}red{after}"
    assume(word not in words("colored") or word == "colored")
    tokens = build_tokenizer("colored").tokenize(f"the {word} mug, non-red")
    spelled = [" colored"] if word == "colored" else [" " + word[0], *word[1:]]
    assert tokens == ["the", *spelled, " mug", ", ", *"non", "-", "red"]


def test_a_course_goes_on_from_a_tokenizer_that_knew_fewer_words(tmp_path: Path) -> None:
    former, tokenizer = build_tokenizer(), build_tokenizer("could you fetch")
    before, model = build(former, SMOKE, 0), build(tokenizer, SMOKE, 1)
    before.save_pretrained(tmp_path)
    former.save_pretrained(tmp_path)
    go_on_from(model, str(tmp_path), tokenizer)
    old, new = (m.get_input_embeddings().weight for m in (before, model))
    ids, spelled = (t.encode("the red mug, 12", add_special_tokens=False) for t in (former, tokenizer))
    assert torch.equal(old[ids], new[spelled])
    [fetch] = tokenizer.encode(" fetch", add_special_tokens=False)
    assert torch.equal(new[fetch], old[former.encode(" fetch", add_special_tokens=False)].mean(0))
    assert model.lm_head.weight is model.get_input_embeddings().weight, "in and out are the same"


def test_mixed_weights_lie_between_and_new_words_are_the_later_courses(tmp_path: Path) -> None:
    before, after = folders = str(tmp_path / "before"), str(tmp_path / "after")
    tokenizers = [build_tokenizer(), build_tokenizer("fetch the shiniest gizmo")]
    for seed, (folder, tokenizer) in enumerate(zip(folders, tokenizers, strict=True)):
        build(tokenizer, SMOKE, seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    old, half, new = (mix(before, after, share) for share in (0.0, 0.5, 1.0))
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    weights = [m.state_dict()[name] for m in (old, half, new)]
    assert not torch.equal(weights[0], weights[2])
    torch.testing.assert_close(weights[1], (weights[0] + weights[2]) / 2)
    rows = [m.get_input_embeddings().weight for m in (old, half, new)]
    fetch, red = (tokenizers[1].encode(f" {word}", add_special_tokens=False)[0] for word in ("fetch", "red"))
    assert torch.equal(rows[0][fetch], rows[2][fetch]) and not torch.equal(rows[0][red], rows[2][red])
    assert half.lm_head.weight is half.get_input_embeddings().weight
    export(half, tokenizers[1], tmp_path / "half")
    assert "float32" not in (tmp_path / "half" / "config.json").read_text() and half.dtype == torch.float32
    with pytest.raises(ValueError, match="not between"):
        mix(before, after, 1.5)


@pytest.mark.parametrize("shape", [(32, 80), (80, 32), (48, 48)])
def test_muon_in_float32_moves_as_torchs_does_within_bfloat16(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start = 0.1 * torch.randn(shape)
    weights = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    settings: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.02, "momentum": 0.95, "nesterov": True}
    settings["adjust_lr_fn"] = "match_rms_adamw"
    optimisers = [kind([weight], **settings) for kind, weight in zip((Muon, torch.optim.Muon), weights, strict=True)]
    for _ in range(5):
        gradient = torch.randn(shape)
        for weight, optimiser in zip(weights, optimisers, strict=True):
            weight.grad = gradient.clone()
            optimiser.step()
    ours, torchs = (weight.detach() - start for weight in weights)
    assert (ours - torchs).norm() < 0.02 * torchs.norm()


def test_pieces_of_an_answer_are_the_answer(data: Path) -> None:
    scenes, writer, rng = Scenes(data / "train"), Writer(build_tokenizer()), np.random.default_rng(0)
    for n in range(300):
        item = write(rng, scenes.things(n % 12), KINDS, 0.3)
        if item is None:
            continue
        whole = answer(item) + "<|im_end|>"
        pieces = segments(item)
        assert "".join(text for text, _, _ in pieces) == whole
        assert [t for text, _, _ in pieces for t in writer.encode(text)] == writer.encode(whole)


def test_the_fast_forward_gives_the_librarys_logits(data: Path) -> None:
    tokenizer = build_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    model = build(tokenizer, SMOKE, 0).eval()
    prefix = tokenizer.encode(PREFIX)
    b = make_batch(
        Scenes(data / "train"), np.arange(2), np.random.default_rng(0), Writer(tokenizer), Instructions(0.3), length=200
    )
    language = FastLanguage(model, prefix, token("<|vision_end|>"))
    with torch.no_grad():
        fast = (
            language(FastVision(model, PATCHES)(b.images), b.packed)[0]
            @ model.model.language_model.embed_tokens.weight.t()
        )
        pixels, shape = library_inputs(b.images)
        for image in range(2):
            for q in range(int(b.packed.query[image].max()) + 1):
                mine = b.packed.query[image] == q
                ids = torch.tensor([[*prefix, *[token("<|image_pad|>")] * GRID**2, token("<|vision_end|>")]])
                ids = torch.cat([ids, b.packed.ids[image][mine][None]], 1)
                model.model.rope_deltas = None
                library = model(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    pixel_values=pixels[image * len(pixels) // 2 : (image + 1) * len(pixels) // 2],
                    image_grid_thw=shape[:1],
                    mm_token_type_ids=(ids == token("<|image_pad|>")).int(),
                ).logits[0, -int(mine.sum()) :]
                torch.testing.assert_close(fast[image][mine], library, atol=1e-4, rtol=1e-4)
    assert tokenizer.encode(SUFFIX)[0] == token("<|im_end|>")


def test_what_steps_need_is_made_ahead_in_their_order_and_no_further() -> None:
    begun: list[int] = []

    def make(step: int) -> int:
        begun.append(step)
        return 10 * step

    batches = made_ahead(make, range(3, 30), ahead=4)
    assert [next(batches), next(batches)] == [30, 40]
    batches.close()
    assert begun == list(range(3, 3 + len(begun))) and len(begun) <= 6
    assert list(made_ahead(make, range(3, 6), ahead=4)) == [30, 40, 50]


def test_a_batch_that_cannot_be_made_ends_the_run_at_its_step() -> None:
    def make(step: int) -> float:
        return 1 / (2 - step)

    batches = made_ahead(make, range(4))
    assert [next(batches), next(batches)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(batches)


def _run(data: Path, out: Path, **change: Any) -> dict[str, torch.Tensor]:
    settings = {"vision_steps": 2, "joint_steps": 2, "images": 2, "workers": 1, "save_every": 1, "validate_every": 4}
    settings["asked"] = 4  # whole answers: an untrained model writes on to the limit
    train(Settings(data=str(data), out=str(out), smoke=True, compile=False, **(settings | change)))
    return torch.load(out / "state.pt", weights_only=True)["model"]


@pytest.mark.long
def test_a_run_stopped_halfway_continues_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    whole = _run(data, tmp_path / "whole")
    _run(data, tmp_path / "halves", stop_after=3)
    continued = _run(data, tmp_path / "halves")
    assert all(torch.equal(whole[name], continued[name]) for name in whole)
    log = [json.loads(line) for line in (tmp_path / "halves" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["validation"]["loss"] > 0


@pytest.fixture(scope="module")
def other_base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose vision tower has the rope base that these models had first."""
    folder = tmp_path_factory.mktemp("other")
    model = build(build_tokenizer(), replace(SMOKE, vision_rope_base=100.0), 0)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.long
def test_a_checkpoint_of_another_rope_base_is_gone_on_with_by_the_usual_one(
    data: Path, other_base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _run(data, tmp_path / "more", init=str(other_base))
    assert "vision rope base 100; it goes on with 10000" in capfd.readouterr().out
    config = json.loads((tmp_path / "more" / "model" / "config.json").read_text())
    assert config["vision_config"]["rope_parameters"]["rope_theta"] == 10_000.0
    assert (tmp_path / "more" / "model" / "preprocessor_config.json").is_file()


@pytest.mark.long
def test_the_tower_recalls_what_it_said_by_its_former_base(data: Path, other_base: Path, tmp_path: Path) -> None:
    _run(data, tmp_path / "same", init=str(_rebased(other_base, tmp_path / "rebased")), joint_steps=0, validate_every=1)
    _run(data, tmp_path / "other", init=str(other_base), vision_steps=12, joint_steps=0, warmup=1, validate_every=1)
    same, other = (
        [json.loads(line)["validation"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("same", "other")
    )
    assert other[-1]["recall"] < 0.8 * other[0]["recall"]
    assert {"box_acc", "box_acc_reworded"} & other[-1].keys(), "and whole answers are asked for"
    assert same[0]["recall"] < other[0]["recall"]


def _rebased(folder: Path, out: Path) -> Path:
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    config["vision_config"]["rope_parameters"]["rope_theta"] = 10_000.0
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.mark.long
def test_a_further_course_that_was_killed_continues_to_the_same_weights(
    data: Path, other_base: Path, tmp_path: Path
) -> None:
    whole = _run(data, tmp_path / "whole", init=str(other_base))
    for stop in (1, 3):  # once while the tower recalls, once after
        _run(data, tmp_path / "parts", init=str(other_base), stop_after=stop)
    continued = _run(data, tmp_path / "parts", init=str(other_base))
    assert all(torch.equal(whole[name], continued[name]) for name in whole)


@pytest.mark.long
def test_a_tower_that_is_kept_keeps_its_rope_base(data: Path, other_base: Path, tmp_path: Path) -> None:
    _run(data, tmp_path / "kept", tower=str(other_base), vision_steps=0)
    config = json.loads((tmp_path / "kept" / "model" / "config.json").read_text())
    assert config["vision_config"]["rope_parameters"]["rope_theta"] == 100.0


@pytest.mark.long
def test_a_continued_run_keeps_the_number_format_that_it_began_with(data: Path, tmp_path: Path) -> None:
    """Whichever this machine's clock would choose now."""
    _run(data, tmp_path, stop_after=1)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save(state | {"half": not state["half"]}, tmp_path / "state.pt")
    _run(data, tmp_path)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["half"] is not state["half"]
