"""Checkpoints in the layout in which the published ones lie on the hub, made here from the embedded weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from rclpy.serialization import deserialize_message
from safetensors.torch import load_file, save_file
from sensor_msgs.msg import Image as ImageMsg
from transformers import Sam2VideoConfig, Sam2VideoModel

from segzero_ros.core.contract import Image, Status
from segzero_ros.models.checkpoints import EMBEDDED
from segzero_ros.models.reasoner_transformers import load_reasoner
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile
from segzero_ros.ros.convert import image_from_msg
from tests import tiny_models

RECORDING = Path(__file__).parents[1] / "examples" / "demo.mcap"
INSTRUCTION = "the duck"


def first_frame() -> Image:
    with RECORDING.open("rb") as file:
        _, _, message = next(make_reader(file).iter_messages(topics=["/camera/color/image_raw"]))
    return image_from_msg(deserialize_message(message.data, ImageMsg))


@pytest.fixture(scope="module")
def reasoner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As transformers 4.49 wrote Seg-Zero-7B: flat config.json, two shards, older weight names."""
    source, folder = EMBEDDED / "reasoner", tmp_path_factory.mktemp("reasoner")
    for file in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / file, folder)
    config = json.loads((source / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    del text["layer_types"], text["model_type"]
    config |= {
        **text,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "torch_dtype": config.pop("dtype"),
        "transformers_version": "4.49.0",
    }
    config["vision_config"]["model_type"] = "qwen2_5_vl"
    (folder / "config.json").write_text(json.dumps(config))
    weights = {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): tensor
        for name, tensor in load_file(source / "model.safetensors").items()
    }
    index: dict[str, str] = {}
    for number, names in enumerate(np.array_split(sorted(weights), 2), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({str(name): weights[name] for name in names}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(map(str, names), file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As facebook/sam2-hiera-large: the video model, memory and all."""
    source, folder = EMBEDDED / "segmenter", tmp_path_factory.mktemp("segmenter")
    config = json.loads((source / "config.json").read_text())
    parts = {name: config[name] for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    video = Sam2VideoModel(Sam2VideoConfig(**parts))
    video.load_state_dict(load_file(source / "model.safetensors"), strict=False)
    video.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_published_layouts_answer_as_the_embedded_models(reasoner: Path, segmenter: Path, dtype: str) -> None:
    image, profile = first_frame(), load_profile("demo")
    wanted = Pipeline.load(profile, dtype=dtype).segment(image, INSTRUCTION)
    found = Pipeline.load(profile, reasoner=str(reasoner), segmenter=str(segmenter), dtype=dtype).segment(
        image, INSTRUCTION
    )
    assert wanted.status is found.status is Status.OK
    assert found.answer == wanted.answer
    for a, b in zip(found.instances, wanted.instances, strict=True):
        assert np.array_equal(a.mask, b.mask)


def test_half_precision_draws_the_same_object() -> None:
    image, profile = first_frame(), load_profile("demo")
    full, half = (Pipeline.load(profile, dtype=d).segment(image, INSTRUCTION) for d in ("float32", "bfloat16"))
    a, b = full.instances[0].mask, half.instances[0].mask
    assert (a & b).sum() > 0.8 * (a | b).sum()


def test_qwen3_vl_runs_by_profile_alone_and_in_a_batch(tmp_path: Path) -> None:
    folder = tiny_models.save_qwen3_vl(tmp_path)
    profile = replace(load_profile("qwen3-vl"), square=128, max_new_tokens=12)
    reasoner = load_reasoner(profile, str(folder))
    squares = [first_frame()[:128, :128], first_frame()[-128:, -128:]]
    prompts = ["the red mug", "something to drink from, please"]
    alone = [reasoner.generate([s], [p])[0] for s, p in zip(squares, prompts, strict=True)]
    together = reasoner.generate(squares, prompts)
    assert [g.text for g in together] == [g.text for g in alone]
    assert alone[0].text != alone[1].text
