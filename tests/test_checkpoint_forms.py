"""What users bring as a checkpoint either loads or is refused with a sentence that says what it is and what to do."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from segzero_ros.core.contract import Cancel, SegzeroError, Status
from segzero_ros.models import checkpoints
from segzero_ros.models.checkpoints import EMBEDDED
from segzero_ros.models.reasoner_transformers import TransformersReasoner, load_reasoner
from segzero_ros.models.segmenter_transformers import load_segmenter
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile
from tests import tiny_models

DEMO = replace(load_profile("demo"), max_new_tokens=4)
SQUARE = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_reasoner(tmp_path_factory.mktemp("reasoner"))


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(source, tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def adapted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A LoRA of rank 4 as PEFT writes it, and what the base answers with it."""
    torch.manual_seed(0)
    base = load_reasoner(DEMO, str(source))
    settings = LoraConfig(r=4, lora_alpha=64, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)")
    model = get_peft_model(base.model, settings)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.5)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(str(folder))
    reasoner = TransformersReasoner(base.model, base.tokenizer, DEMO, base.info)
    return folder, reasoner.generate([SQUARE], ["the mug"])[0].text


def refusal(name: Path | str, role: str = "reasoner", profile: Any = DEMO) -> str:
    """The sentence with which a checkpoint is refused."""
    load = load_reasoner if role == "reasoner" else load_segmenter
    with pytest.raises(SegzeroError) as error:
        load(profile, str(name), offline=True)
    assert error.value.status is Status.NOT_READY, error.value.message
    assert "\n" not in error.value.message and len(error.value.message) < 700
    return error.value.message


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


class TestTokenizer:
    @pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer_config.json"])
    def test_both_files_are_wanted(self, folder: Path, missing: str) -> None:
        (folder / missing).unlink()
        assert missing in refusal(folder)

    def test_each_special_token_is_one_number(self, folder: Path) -> None:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            text = (folder / file).read_text()
            (folder / file).write_text(text.replace("<|vision_end|>", "<|another|>"))
        assert "knows no <|vision_end|>" in refusal(folder)

    def test_the_image_token_is_the_model_s(self, folder: Path) -> None:
        edit_json(folder / "config.json", lambda c: c.update(image_token_id=c["image_token_id"] + 3))
        assert "another model's" in refusal(folder)

    def test_words_of_answers_are_no_special_tokens(self, folder: Path) -> None:
        edit_json(folder / "tokenizer_config.json", lambda c: c.update(additional_special_tokens=["red"]))
        assert "special token" in refusal(folder)

    def test_a_damaged_file_is_named(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
        assert f"the tokenizer in {folder}" in refusal(folder)


class TestWeights:
    def test_float8_without_its_scales_is_refused(self, folder: Path) -> None:
        def quantise(weights: dict[str, torch.Tensor]) -> None:
            for key in [k for k in weights if k.endswith("q_proj.weight")]:
                scale = weights[key].abs().max().float() / 448
                weights[key] = (weights[key].float() / scale).to(torch.float8_e4m3fn)
                weights[f"{key}_scale"] = scale.reshape(1)

        edit_weights(folder, quantise)
        assert "F8_E4M3" in (said := refusal(folder)) and "bfloat16" in said

    def test_scales_beside_floating_weights_are_refused(self, folder: Path) -> None:
        edit_weights(
            folder, lambda w: w.update({f"{k}_scale": torch.ones(1) for k in list(w) if k.endswith("q_proj.weight")})
        )
        assert "have no place there" in refusal(folder)

    def test_more_layers_than_the_configuration_says_are_refused(self, folder: Path) -> None:
        def shorten(config: dict[str, Any]) -> None:
            text = config["text_config"]
            text["num_hidden_layers"] -= 1
            text["layer_types"] = text["layer_types"][:-1]

        edit_json(folder / "config.json", shorten)
        assert "have no place there" in refusal(folder)

    def test_weights_of_a_part_that_the_model_class_lacks_are_named_in_a_warning(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        edit_weights(folder, lambda w: w.update({"mtp.fc.weight": torch.zeros(2, 2)}))
        with caplog.at_level(logging.WARNING):
            load_reasoner(DEMO, str(folder), offline=True)
        assert "mtp.fc.weight" in caplog.text

    def test_a_file_that_was_not_written_to_its_end_is_refused(self, folder: Path) -> None:
        edit_weights(folder, lambda w: w[next(k for k in w if k.endswith("q_proj.weight"))].zero_())
        assert "nothing but zeros" in (said := refusal(folder)) and "q_proj" in said

    def test_a_weight_under_two_names_is_refused(self, folder: Path) -> None:
        def twice(weights: dict[str, torch.Tensor]) -> None:
            key = next(k for k in weights if k.endswith("q_proj.weight"))
            other = {True: "model.layers", False: "model.language_model.layers"}["language_model" in key]
            weights[f"{other}.{key.partition('layers.')[2]}"] = torch.zeros_like(weights[key])

        edit_weights(folder, twice)
        assert "under two names" in refusal(folder)

    def test_a_whole_file_beside_shards_is_refused(self, folder: Path) -> None:
        shards = {"a": "model-00001-of-00001.safetensors"}
        shutil.copy(folder / "model.safetensors", folder / shards["a"])
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        assert "which are meant" in refusal(folder)

    @pytest.mark.parametrize("number", [float("nan"), float("inf")])
    def test_numbers_that_are_not_finite_are_refused(self, folder: Path, number: float) -> None:
        edit_weights(folder, lambda w: w[next(k for k in w if k.endswith("q_proj.weight"))].view(-1)[3:4].fill_(number))
        assert "not finite" in (said := refusal(folder)) and "q_proj" in said

    def test_another_shape_is_named_with_both(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        def widen(config: dict[str, Any]) -> None:
            config["text_config"]["intermediate_size"] += 8

        edit_json(folder / "config.json", widen)
        assert "another shape" in (said := refusal(folder)) and "in the file" in said
        assert "LOAD REPORT" not in capfd.readouterr().err, "the sentence says it"

    def test_a_configuration_of_a_larger_model_is_refused_before_it_is_built(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def enlarge(config: dict[str, Any]) -> None:
            text = config["text_config"]
            text |= {"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80}
            text["layer_types"] = ["full_attention"] * 80

        edit_json(folder / "config.json", enlarge)
        monkeypatch.setattr(Qwen2_5_VLForConditionalGeneration, "from_pretrained", None)
        assert "do not belong together" in refusal(folder)

    @pytest.mark.parametrize(("key", "value"), [("num_hidden_layers", 10**9), ("hidden_size", 10**12)])
    def test_numbers_that_no_model_has_are_refused(self, folder: Path, key: str, value: int) -> None:
        edit_json(folder / "config.json", lambda c: c["text_config"].update({key: value}))
        assert key in refusal(folder)

    def test_shards_without_an_index_are_named(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        assert "model.safetensors.index.json" in refusal(folder)

    def test_a_missing_shard_is_named(self, folder: Path) -> None:
        shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        (folder / "model.safetensors").rename(folder / shards["a"])
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        assert f"lacks 1 of its 2 files, such as {shards['b']}" in refusal(folder)

    @pytest.mark.parametrize("name", ["../other.safetensors", 7, ""])
    def test_an_index_names_files_of_its_own_folder_only(self, folder: Path, name: Any) -> None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        assert "corrupt" in refusal(folder)

    def test_a_git_lfs_pointer_is_named(self, folder: Path) -> None:
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        assert "git lfs pull" in refusal(folder)


class TestForms:
    @pytest.mark.parametrize(
        ("file", "words"),
        [
            ("model.gguf", "llama"),
            ("sam2.1_hiera_large.pt", "facebook/sam2.1-hiera-large"),
            ("pytorch_model.bin", "pickle"),
            ("model.onnx", "ONNX"),
            ("model.engine", "TensorRT"),
        ],
    )
    def test_another_form_is_said_with_what_to_take(self, tmp_path: Path, file: str, words: str) -> None:
        (tmp_path / file).write_bytes(b"x" * 100)
        assert words in refusal(tmp_path) and words in refusal(tmp_path / file)
        (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
        assert words in refusal(tmp_path)

    def test_a_folder_of_the_hub_s_cache_names_the_snapshot(self, source: Path, tmp_path: Path) -> None:
        cache = tmp_path / "models--Ricky06662--Seg-Zero-7B"
        shutil.copytree(source, cache / "snapshots" / "abc")
        said = refusal(cache)
        assert "Ricky06662/Seg-Zero-7B" in said and str(cache / "snapshots" / "abc") in said
        assert load_reasoner(DEMO, str(cache / "snapshots" / "abc")).info.revision == "abc"

    def test_a_run_s_folder_names_its_checkpoint(self, source: Path, tmp_path: Path) -> None:
        shutil.copytree(source, tmp_path / "checkpoint-20")
        assert str(tmp_path / "checkpoint-20") in refusal(tmp_path)

    @pytest.mark.parametrize("scheme", ["awq", "gptq", "bitsandbytes", "compressed-tensors", "fp8"])
    def test_quantised_weights_are_said_with_their_scheme(self, folder: Path, scheme: str) -> None:
        edit_json(folder / "config.json", lambda c: c.update(quantization_config={"quant_method": scheme}))
        assert scheme in (said := refusal(folder)) and "bfloat16" in said

    @pytest.mark.parametrize("found", ["qwen2_vl", "qwen3_vl", "llama", None, ["x"]])
    def test_another_model_type_is_compared_with_the_profile(self, folder: Path, found: Any) -> None:
        edit_json(folder / "config.json", lambda c: c.update(model_type=found))
        assert "is to be qwen2_5_vl" in refusal(folder)

    def test_a_reasoner_is_no_segmenter_and_the_other_way_round(self, source: Path) -> None:
        assert "is to be sam2 or sam2_video" in refusal(source, "segmenter")
        assert "is to be qwen2_5_vl" in refusal(EMBEDDED / "segmenter")

    @pytest.mark.parametrize("text", ["[]", "3", "{", "\ud800", '{"model_type": ' + "[" * 10**5, "x" * 2_000_000])
    def test_a_configuration_that_is_none_is_a_sentence(self, folder: Path, text: str) -> None:
        (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        assert "config.json is not valid" in refusal(folder)

    @pytest.mark.parametrize("name", ["a" * 5000, "nul\0", "~nobody-here/x", "./nothing", "/etc/hostname"])
    def test_a_name_that_is_none_is_a_sentence(self, name: str) -> None:
        refusal(name)


class TestAdapters:
    def profile(self, source: Path, adapter: Path, **more: Any) -> Any:
        return replace(DEMO, reasoner=str(source), adapter=str(adapter), **more)

    def test_a_merged_adapter_answers_as_peft_does(self, source: Path, adapted: tuple[Path, str]) -> None:
        folder, wanted = adapted
        reasoner = load_reasoner(self.profile(source, folder))
        assert reasoner.generate([SQUARE], ["the mug"])[0].text == wanted
        assert load_reasoner(DEMO, str(source)).generate([SQUARE], ["the mug"])[0].text != wanted
        assert reasoner.info.full_name == f"{source} with {folder}", "the answer names what gave it"

    def test_the_older_names_of_published_adapters_are_the_same_weights(
        self, source: Path, adapted: tuple[Path, str], tmp_path: Path
    ) -> None:
        folder, wanted = adapted
        older = Path(shutil.copytree(folder, tmp_path / "star" / "lora_adapter"))
        file = older / "adapter_model.safetensors"
        save_file({k.replace(".model.language_model.", ".model."): v for k, v in load_file(file).items()}, file)
        profile = self.profile(source, tmp_path / "star", adapter_subfolder="lora_adapter")
        assert load_reasoner(profile).generate([SQUARE], ["the mug"])[0].text == wanted

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"peft_type": "IA3"}, "IA3"),
            ({"r": 0}, "r and lora_alpha"),
            ({"lora_alpha": "x"}, "r and lora_alpha"),
            ({"r": 5}, "does not fit its base"),
            ({"bias": "all"}, "biases"),
            ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
            ({"init_lora_weights": "pissa"}, "changes its base"),
            ({"init_lora_weights": "pissa_niter_4"}, "changes its base"),
            ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
            ({"use_dora": True}, "use_dora"),
            ({"lora_alpha": 10**400}, "r and lora_alpha"),
        ],
    )
    def test_an_adapter_that_cannot_be_merged_is_a_sentence(
        self, source: Path, adapted: tuple[Path, str], tmp_path: Path, change: dict[str, Any], words: str
    ) -> None:
        copy = Path(shutil.copytree(adapted[0], tmp_path / "adapter"))
        edit_json(copy / "adapter_config.json", lambda c: c.update(change))
        with pytest.raises(SegzeroError, match=words):
            load_reasoner(self.profile(source, copy))

    @pytest.mark.parametrize("fault", ["half", "foreign", "pickle", "cut"])
    def test_an_adapter_that_does_not_fit_is_a_sentence(
        self, source: Path, adapted: tuple[Path, str], tmp_path: Path, fault: str
    ) -> None:
        copy = Path(shutil.copytree(adapted[0], tmp_path / "adapter"))
        file = copy / "adapter_model.safetensors"
        weights = load_file(file)
        if fault == "half":
            weights.pop(next(k for k in weights if "lora_B" in k))
            save_file(weights, file)
        elif fault == "foreign":
            save_file({k.replace("layers.0", "layers.77"): v for k, v in weights.items()}, file)
        elif fault == "pickle":
            file.unlink()
            (copy / "adapter_model.bin").write_bytes(b"x")
        else:
            file.write_bytes(file.read_bytes()[:-3])
        with pytest.raises(SegzeroError) as error:
            load_reasoner(self.profile(source, copy))
        assert error.value.status is Status.NOT_READY and str(copy) in error.value.message

    def test_the_profile_s_adapter_is_not_dropped_in_silence(self, source: Path, adapted: tuple[Path, str]) -> None:
        profile = replace(DEMO, adapter=str(adapted[0]))
        assert "say adapter, too" in refusal(source, profile=profile)
        assert load_reasoner(profile, str(source), adapter="none").info.adapter == ""
        assert load_reasoner(profile, str(source), adapter=str(adapted[0])).info.adapter == str(adapted[0])

    def test_an_adapter_given_as_a_model_is_said(self, adapted: tuple[Path, str]) -> None:
        assert "LoRA adapter" in refusal(adapted[0])

    def test_a_subfolder_stays_inside(self, source: Path) -> None:
        with pytest.raises(SegzeroError, match="leads out"):
            checkpoints.resolve(str(source.parent), "reasoner", subfolder=f"x/../../{source.name}")
        assert checkpoints.resolve(str(source.parent), "reasoner", subfolder=source.name) == source


class TestTrial:
    def test_models_are_tried_before_they_are_ready(self, source: Path) -> None:
        told: list[str] = []
        pipeline = Pipeline.load(DEMO, reasoner=str(source), on_progress=lambda share, what: told.append(what))
        assert told[-3:] == ["trying the segmenter", "trying the reasoner", "loaded"]
        told.clear()
        Pipeline.load(DEMO, reasoner=str(source), trial=False, on_progress=lambda share, what: told.append(what))
        assert not [w for w in told if w.startswith("trying")]
        assert pipeline.model

    def test_numbers_that_overflow_are_found_by_the_trial(self, folder: Path) -> None:
        edit_weights(folder, lambda w: [w[k].fill_(1e4) for k in w if k.endswith("down_proj.weight")])
        with pytest.raises(SegzeroError, match=r"cannot answer: .*not finite") as error:
            Pipeline.load(DEMO, reasoner=str(folder), dtype="float16")
        assert error.value.status is Status.NOT_READY

    def test_a_trial_is_cancelled(self, source: Path) -> None:
        cancel = Cancel()

        def tell(share: float, what: str) -> None:
            if what == "trying the reasoner":
                cancel.set()

        with pytest.raises(SegzeroError) as error:
            Pipeline.load(DEMO, reasoner=str(source), on_progress=tell, cancel=cancel)
        assert error.value.status is Status.CANCELLED

    def test_memory_that_a_request_lacks_is_said(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any, **more: Any) -> Any:
            raise MemoryError

        monkeypatch.setattr(TransformersReasoner, "generate", full)
        with pytest.raises(SegzeroError, match="a request does not") as error:
            Pipeline.load(DEMO, reasoner=str(source))
        assert error.value.status is Status.OUT_OF_MEMORY
