"""Profiles: what is shipped, what a file may hold, and that a hostile one is refused in one short sentence."""

from __future__ import annotations

import os
import re
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from segzero_ros.models.reasoner_transformers import load_reasoner
from segzero_ros.profiles import Profile, ProfileError, list_profiles, load_profile
from tests import tiny_models

PAGE = (Path(__file__).parents[1] / "docs" / "profiles.md").read_text(encoding="utf-8")
GOOD = "description: d\nprompt: Find {question}\nreasoner: a\nsegmenter: b\n"
HEADS = ["## Shipped", "## One's own", "## Fields", "## Forms of answers", "What GLM and Rex-Omni put"]
SHIPPED = {p.name: p for p in list_profiles()}
CELL = {"qwen2_5_vl": 28, "qwen3_vl": 32, "qwen3_5": 32}  # pixels: patch times merge of the published models


def refused(path: Path | str) -> str:
    with pytest.raises(ProfileError) as error:
        load_profile(str(path))
    sentence = str(error.value)
    assert 0 < len(sentence) <= 300 and sentence.isprintable()
    return sentence


def file_of(folder: Path, content: str | bytes) -> Path:
    path = folder / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_square_is_made_of_whole_cells(name: str) -> None:
    assert SHIPPED[name].square % CELL[SHIPPED[name].model_class] == 0


def test_star_is_an_adapter_on_qwen_s_weights_with_the_tokens_of_its_own_script() -> None:
    for name, base, repository in (
        ("star", "Qwen/Qwen2.5-VL-7B-Instruct", "sj9909/StAR-7B"),
        ("star-8b", "Qwen/Qwen3-VL-8B-Instruct", "sj9909/StAR-8B"),
    ):
        p = SHIPPED[name]
        assert (p.reasoner, p.adapter, p.adapter_subfolder) == (base, repository, "lora_adapter")
        assert (p.prompt, p.max_new_tokens) == ("star", 1024)


def test_what_was_never_run_says_so() -> None:
    for name in ("star-8b", "cosmos-reason2", "qwen3.5"):
        assert "not run by us" in SHIPPED[name].description


def test_the_page_has_every_field_and_every_shipped_profile() -> None:
    shipped, own, written, _ = (PAGE[PAGE.index(a) : PAGE.index(b)] for a, b in pairwise(HEADS))
    assert set(re.findall(r"^\| `([a-z0-9.-]+)` \|", shipped, re.M)) == set(SHIPPED)
    first_cells = " ".join(re.findall(r"^\|([^|]+)\|", written, re.M))
    assert set(re.findall(r"`([a-z_]+)`", first_cells)) == {f.name for f in fields(Profile)}
    assert "```yaml" in own


def test_the_page_s_example_is_a_profile(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    profile = load_profile(str(file_of(tmp_path, text)))
    assert (profile.name, profile.reader, profile.extent) == ("mine", "rex-omni", 999)


def test_every_field_can_be_written(tmp_path: Path) -> None:
    values: dict[str, Any] = (
        {f.name: f.name for f in fields(Profile)}
        | {"prompt": "{question}", "square": 56, "system": None, "coordinates": "unit", "schema": "single"}
        | {"rounding": "last-pixel", "sam_prompts": "box", "max_new_tokens": 7, "model_class": "qwen3_5"}
        | {"reader": "json", "order": "yx", "thinking": "closed", "adapter_subfolder": "a/b", "dtype": "float32"}
        | {"constrain": True}
    )
    wanted = Profile(**values)
    assert load_profile(str(file_of(tmp_path, yaml.safe_dump(vars(wanted))))) == wanted


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD + f"square: 1{'0' * 30}", "square must be from 28 to 4096 pixels"),
        (GOOD + f"square: 1{'0' * 5000}", "holds a value that is none"),
        (GOOD + f"square: 0x{'f' * 9000}", "square must be from"),
        (GOOD + "square: 27", "square must be from"),
        (GOOD + "square: -840", "square must be from"),
        (GOOD + "square: 840.0", "square is 840.0; it must be int"),
        (GOOD + "square: .nan", "square is nan; it must be int"),
        (GOOD + "square: .inf", "square is inf; it must be int"),
        (GOOD + "square: true", "square is True; it must be int"),
        (GOOD + "square: 2026-11-28", "it must be int"),
        (GOOD + "square:", "square is None; it must be int"),
        (GOOD + "licence: 2026-11-28", "it must be str"),
        (GOOD + "licence: 2026-99-99", "holds a value that is none"),
        (GOOD + "constrain: maybe", "constrain is 'maybe'; it must be true or false"),
        (GOOD + "constrain: 1", "constrain is 1; it must be true or false"),
        (GOOD + "constrain: on\nreader: glm", "constrain needs reader json"),
        (GOOD + "max_new_tokens: 0", "max_new_tokens must be from 1 to 131072"),
        (GOOD + "max_new_tokens: 10000000", "max_new_tokens must be from"),
        (GOOD + "order: zyx", "it is one of xy, yx"),
        (GOOD + "reader: xml", "it is one of json, glm, rex-omni, molmo"),
        (GOOD + f"order: {'x' * 9000}", "it is one of xy, yx"),
        (GOOD + "reader: molmo", "reader molmo is of order xy, with coordinates percent"),
        (GOOD + "coordinates: percent\nrounding: round", "rounding round drops decimals"),
        (GOOD + "adapter_revision: main", "there is none"),
        (GOOD + "adapter: ''", "adapter cannot be empty"),
        (GOOD + "subfolder: ../other", "stay inside their repository"),
        (GOOD + "adapter: a\nadapter_subfolder: /etc", "stay inside their repository"),
        (GOOD + 'name: "\\e[31mred"', "name holds a control character"),
        (GOOD + 'adapter: "a\\ud800"', "adapter holds a control character"),
        (GOOD.replace("{question}", "it"), "prompt is neither the name of a template nor a text with {question}"),
        (GOOD.replace("Find {question}", "seg-zreo"), "prompt is neither"),
        (GOOD.replace("reasoner: a", "reasoner: ''"), "cannot be empty"),
        (GOOD + "reasoner: c", "line 5: reasoner is there twice"),
        (GOOD + "?", "the key None is not a word"),
        (GOOD + "1: 2", "the key 1 is not a word"),
        (GOOD + "yes: 2", "the key True is not a word"),
        (GOOD + "? [a, b]\n: 2", "lists and mappings are not taken"),
        (GOOD + "system: {a: b}", "line 5: lists and mappings are not taken"),
        (GOOD + "system: !!python/object/apply:os.system [ls]", "tags are not taken"),
        (GOOD + "system: !!binary aGk=", "tags are not taken"),
        (GOOD + "system: &a hi\nlicence: *a", "anchors and aliases are not taken"),
        (GOOD + "<<: a", "not valid YAML"),
        (GOOD + "---\n" + GOOD, "a second document"),
        (BOMB, "anchors and aliases are not taken"),
        ("[" * 60_000, "lists and mappings are not taken"),
        ("a: " * 20_000, "not valid YAML"),
        ("- " * 30_000, "lists and mappings are not taken"),
        ("? " * 30_000, "lists and mappings are not taken"),
        ("- a\n- a", "expected a mapping"),
        ("", "expected a mapping"),
        ("words", "expected a mapping"),
        (GOOD + "#" * 70_000, "is larger than 64 KB"),
        (b"name: \xff\xfe", "is not UTF-8 text: byte 6"),
        (b"name: \x00", "not valid YAML"),
        ("\n".join(f"unknown_{n}: 1" for n in range(3000)), "unknown unknown_0, unknown_1"),
        ("? " + "x" * 60_000 + "\n: 1", "unknown xxx"),
    ],
)
def test_a_hostile_file_is_refused_in_one_short_sentence(content: str | bytes, said: str, tmp_path: Path) -> None:
    sentence = refused(file_of(tmp_path, content))
    assert sentence.startswith("mine.yaml: ") and said in sentence


def test_what_is_no_file_is_refused_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")  # opening it would wait for a writer for ever
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    assert "is not a file" in refused(tmp_path / "pipe.yaml")
    assert "is not a file" in refused(tmp_path / "folder.yaml")
    for name in (tmp_path / "loop.yaml", tmp_path / "not there.yaml", "a" * 5000 + ".yaml", "a\0b.yaml", "\ud800.yaml"):
        assert "there is no profile file" in refused(name)


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte would not fit anywhere
    assert "is larger than 64 KB" in refused(tmp_path / "large.yaml")


@pytest.mark.parametrize("name", ["", "nobody", "a" * 5000, "\0", "\ud800", "../profiles/demo", "a\nb"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    assert "known: " in refused(name)


NAMES = [f.name for f in fields(Profile)]
VALUES: Any = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.dates(), st.lists(st.integers())
)
MAPPINGS = st.fixed_dictionaries(
    {k: st.text(max_size=5) for k in ("description", "reasoner", "segmenter")}
    | {"prompt": st.sampled_from(["seg-zero", "{question}", "x"])},
    optional=dict.fromkeys(NAMES[5:], VALUES) | {"name": VALUES, "other": VALUES},
).map(lambda data: yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))
LINES = st.lists(st.tuples(st.sampled_from(NAMES), st.text(max_size=12)), max_size=6).map(
    lambda pairs: (GOOD + "".join(f"{k}: {v}\n" for k, v in pairs)).encode("utf-8", "surrogatepass")
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), MAPPINGS, LINES))
@example((GOOD + "square: 0b_").encode())
@example((GOOD + "licence: 2001-01-01t00:00:00+99:99").encode())
@example((GOOD + 'system: "\\UFFFFFFFF"').encode())
@example((GOOD + "square: 1:1:1:1:1").encode())
@example((GOOD + "square: 1:" + "9" * 400 + ".0").encode())
@example((GOOD + "licence: =").encode())
@example(b"\xef\xbb\xbf" + GOOD.encode())
@example(b"%YAML 9.9\n---\n" + GOOD.encode())
@example(b"%TAG ! a\n%TAG ! b\n---\n")
def test_any_bytes_are_a_profile_or_one_short_sentence(tmp_path: Path, content: bytes) -> None:
    path = file_of(tmp_path, content)
    try:
        profile = load_profile(str(path))
    except ProfileError:
        refused(path)
    else:
        assert profile.reasoner and 28 <= profile.square <= 4096 and profile.extent >= 1


def test_qwen3_5_runs_by_profile_alone_and_in_a_batch(tmp_path: Path) -> None:
    folder = tiny_models.save_qwen3_5(tmp_path)
    reasoner = load_reasoner(replace(SHIPPED["qwen3.5"], square=128, max_new_tokens=12), str(folder))
    squares = list(np.random.default_rng(0).integers(0, 255, (2, 128, 128, 3), dtype=np.uint8))
    prompts = ["the red mug", "something to drink from, please"]
    alone = [reasoner.generate([s], [p])[0].text for s, p in zip(squares, prompts, strict=True)]
    assert [g.text for g in reasoner.generate(squares, prompts)] == alone
    assert reasoner.generate([squares[1]], [prompts[0]])[0].text != alone[0], "the image matters"
