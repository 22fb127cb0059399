"""The files that a server reads beside weights: an embedded or exported folder's square is left as it is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from segzero_ros.models.checkpoints import EMBEDDED
from segzero_ros.models.reasoner_transformers import load_reasoner
from segzero_ros.profiles import load_profile
from training.finetune.processor_files import write_processor_files

WEIGHTS = EMBEDDED / "reasoner"


def test_the_embedded_folder_has_what_the_writer_writes(tmp_path: Path) -> None:
    shutil.copy(WEIGHTS / "config.json", tmp_path)
    write_processor_files(tmp_path, load_profile("demo").square)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"preprocessor_config.json", "video_preprocessor_config.json", "chat_template.jinja"} < names
    assert all((WEIGHTS / name).read_text() == (tmp_path / name).read_text() for name in names)


def test_a_processor_of_the_folder_gives_the_nodes_pixels_and_patches() -> None:
    """The library's own code, as a server runs it, on the folder's own files."""
    profile = load_profile("demo")
    square = np.random.default_rng(0).integers(0, 256, (profile.square, profile.square, 3)).astype(np.uint8)
    made = Qwen2VLImageProcessorPil.from_pretrained(WEIGHTS)(Image.fromarray(square), return_tensors="pt")
    assert made["image_grid_thw"].tolist() == [[1, 28, 28]]
    node = load_reasoner(profile, device="cpu", dtype="float32")
    assert np.abs(made["pixel_values"].numpy() - node.pixel_values([square]).numpy()).max() < 1e-5


@pytest.mark.parametrize("system", ["", "You are a helpful assistant."])
def test_the_chat_template_writes_the_nodes_prompt(system: str) -> None:
    node = load_reasoner(load_profile("demo"), device="cpu", dtype="float32")
    node = type(node)(node.model, node.tokenizer, replace(node.profile, system=system or None), node.info)
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    turns: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "the red mug"}]})
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    ids = tokenizer.encode(text, add_special_tokens=False)
    at = ids.index(image)
    assert [*ids[:at], *[image] * node.image_tokens, *ids[at + 1 :]] == node.prompt_ids("the red mug")


@pytest.mark.parametrize(("square", "limits"), [(840, (3136, 705600)), (28, (784, 784))])
def test_the_square_lies_within_the_limits(square: int, limits: tuple[int, int], tmp_path: Path) -> None:
    config = {"model_type": "qwen2_5_vl", "vision_config": {"patch_size": 14}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_processor_files(tmp_path, square)
    found = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (found["min_pixels"], found["max_pixels"]) == limits
    assert found["size"] == {"shortest_edge": limits[0], "longest_edge": limits[1]}


def test_a_square_that_would_be_resized_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "qwen2_5_vl", "vision_config": {"patch_size": 14}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="100 pixels is no multiple of 28"):
        write_processor_files(tmp_path, 100)
