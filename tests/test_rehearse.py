"""`segzero rehearse`: random weights of given dimensions, through the ordinary load and the ordinary request."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, Sam2Model

from segzero_ros import cli
from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile
from segzero_ros.rehearse import checkpoint, stages
from segzero_ros.rehearse.checkpoint import disk_bytes, is_whole, special_ids, write_checkpoint
from segzero_ros.rehearse.dimensions import PUBLISHED, Role, find_dimensions
from segzero_ros.rehearse.ends import Recovery, measure_recovery
from segzero_ros.rehearse.machine import Peak, is_in_memory
from tests import tiny_models

IMAGE_TOKENS = (224 // 16) ** 2
QUICK = ("--repeat", "1", "--tokens", "4", "--pictures", "320x200", "--objects", "1")
PROFILE = """
description: dimensions for tests
prompt: seg-zero
reasoner: nobody/Tiny
segmenter: nobody/Tiny-SAM
square: 224
"""


@dataclass(frozen=True)
class Tiny:
    """Paths of a profile and of configurations without weights."""

    profile: Path
    qwen2_5_vl: Path
    qwen3_vl: Path
    sam2: Path
    sam2_video: Path

    def dimensions(self, kind: str) -> tuple[str, ...]:
        return "--dimensions", str(getattr(self, kind)), "--segmenter-dimensions", str(self.sam2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("tiny")
    profile = root / "tiny.yaml"
    profile.write_text(PROFILE)
    paths = {}
    for kind, save in (
        ("qwen2_5_vl", tiny_models.save_reasoner),
        ("qwen3_vl", tiny_models.save_qwen3_vl),
        ("sam2", tiny_models.save_segmenter),
    ):
        folder = root / kind
        folder.mkdir()
        save(folder)
        for path in folder.iterdir():
            if path.name != "config.json":
                path.unlink()
        if kind != "sam2":  # a vocabulary with room for the embedded model's, whose tokens a rehearsal writes
            config = json.loads((folder / "config.json").read_text())
            config["text_config"]["vocab_size"] = 4096
            (folder / "config.json").write_text(json.dumps(config))
        paths[kind] = folder
    settings = json.loads((paths["sam2"] / "config.json").read_text())
    paths["sam2_video"] = root / "sam2_video.json"
    paths["sam2_video"].write_text(json.dumps(settings | {"model_type": "sam2_video"}))
    return Tiny(profile, **paths)


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main(["rehearse", *arguments])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def found(tiny: Tiny) -> dict[str, Any]:
    """All figures of one rehearsal in two number formats."""
    sizes = ("--pictures", "320x200", "640x480", "--objects", "1", "3", "--repeat", "1", "--tokens", "6")
    dtypes = ("--dtype", "float32", "bfloat16")
    code, out, _ = run(str(tiny.profile), *tiny.dimensions("qwen2_5_vl"), *sizes, *dtypes, "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


class TestFigures:
    def test_each_number_format_is_loaded_and_fits(self, found: dict[str, Any]) -> None:
        assert found["fits"] is True
        assert [r["load"]["dtype"] for r in found["runs"]] == ["float32", "bfloat16"]
        full, half = (r["load"]["weights"] for r in found["runs"])
        assert full == pytest.approx(2 * half, rel=0.01)
        assert all(not r["fault"] for r in found["runs"])

    def test_every_stage_has_its_seconds(self, found: dict[str, Any]) -> None:
        for run in found["runs"]:
            a = run["answers"]
            parts = [a[k] for k in ("square", "pixels", "vision", "prefill")]
            assert min(parts) > 0 and a["token"] > 0
            assert a["first_token"] == pytest.approx(sum(parts))
            assert a["tokens_per_second"] == pytest.approx(1 / a["token"])

    def test_the_prompt_has_the_published_length_and_the_answer_the_wanted_one(self, found: dict[str, Any]) -> None:
        for run in found["runs"]:
            assert IMAGE_TOKENS + 145 <= run["answers"]["prompt_tokens"] <= IMAGE_TOKENS + 147
            assert run["answers"]["completion_tokens"] == 6

    def test_sam_is_timed_for_each_size_and_number_of_objects(self, found: dict[str, Any]) -> None:
        for run in found["runs"]:
            assert [(e["width"], e["height"]) for e in run["encodings"]] == [(320, 200), (640, 480)]
            for e in run["encodings"]:
                assert [m["objects"] for m in e["masks"]] == [1, 3]
                assert min(e["first"], e["seconds"], *(m["seconds"] for m in e["masks"])) > 0

    def test_a_cancel_and_a_time_limit_end_the_request_as_such(self, found: dict[str, Any]) -> None:
        for run in found["runs"]:
            ends = {e["where"]: e["status"] for e in run["ends"]}
            assert [ends[where] for where in ("vision tower", "prefill", "writing")] == ["CANCELLED"] * 3
            assert ends["SAM encoder"] in ("CANCELLED", "OK")
            assert next(status for where, status in ends.items() if where.startswith("time limit")) == "TIMEOUT"

    def test_the_trial_of_the_node_is_passed(self, found: dict[str, Any]) -> None:
        assert all(run["trial"] > 0 for run in found["runs"])

    def test_text_is_streamed(self, found: dict[str, Any]) -> None:
        for run in found["runs"]:
            assert run["stream"]["first_text"] > 0
            assert run["stream"]["last"] in ("OK", "NO_OBJECT", "PARSE_ERROR")

    def test_longer_answers_are_estimated_from_what_was_measured(self, found: dict[str, Any]) -> None:
        for run in found["runs"]:
            a = run["answers"]
            assert a["seconds_estimated"]["300"] == pytest.approx(a["first_token"] + 299 * a["token"])
            assert run["judged"]["seconds_estimated"] > a["seconds_estimated"]["300"]

    def test_the_machine_and_the_need_are_told(self, found: dict[str, Any]) -> None:
        assert found["machine"]["torch"] == torch.__version__
        assert found["machine"]["memory_free"] > found["need"]["memory"] > found["need"]["weights"] > 0
        assert found["need"]["disk"] == sum(c["bytes"] for c in found["checkpoints"].values())


def test_qwen3_vl_is_rehearsed_and_the_last_line_is_the_verdict(tiny: Tiny, tmp_path: Path) -> None:
    profile = tmp_path / "third.yaml"
    profile.write_text(PROFILE + "model_class: qwen3_vl\n")
    code, out, _ = run(str(profile), *tiny.dimensions("qwen3_vl"), *QUICK)
    assert code == 0
    assert out.splitlines()[-1].startswith("fits: ") and "(estimated)" in out.splitlines()[-1]


def test_the_demo_is_rehearsed_with_its_own_weights_and_without_ros() -> None:
    code = (
        "import sys; from segzero_ros import cli; code = cli.main(sys.argv[1:]); "
        "assert 'rclpy' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "rehearse", "demo", "--json", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["checkpoints"]["reasoner"]["random"]
    assert found["need"]["disk"] == 0


def test_a_setting_that_does_not_work_is_said_and_the_others_are_measured(tiny: Tiny) -> None:
    settings = ("--attention", "no_such_attention", "eager", "--json")
    code, out, err = run(str(tiny.profile), *tiny.dimensions("qwen2_5_vl"), *QUICK, *settings)
    found = json.loads(out)
    assert code == 1 and found["fits"] is False
    assert [r["fits"] for r in found["runs"]] == [False, True]
    assert "does not fit: NOT_READY" in found["verdict"] and "Traceback" not in err


class TestCheckpoint:
    @pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl", "sam2", "sam2_video"])
    def test_loads_without_a_missing_or_an_unexpected_weight(
        self, kind: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        role: Role = "segmenter" if kind.startswith("sam") else "reasoner"
        model_class: Any = Sam2Model if role == "segmenter" else AutoModelForImageTextToText
        monkeypatch.setattr(checkpoint, "SHARD_BYTES", 300_000)
        wanted = find_dimensions(str(getattr(tiny, kind)), role, ids=special_ids() if role == "reasoner" else None)
        write_checkpoint(wanted, tmp_path / "c")
        model, loading = model_class.from_pretrained(tmp_path / "c", output_loading_info=True)
        assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert all(torch.isfinite(p).all() for p in model.parameters())
        if kind != "sam2_video":  # that holds the memory of tracking too
            assert sum(p.numel() for p in model.parameters()) == sum(
                wanted.tensors[n].numel() for n, _ in model.named_parameters()
            )
        assert disk_bytes(wanted) == sum(t.numel() * t.element_size() for t in stored(tmp_path / "c").values())

    def test_has_shards_with_an_index_and_the_names_and_settings_of_the_hub(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checkpoint, "SHARD_BYTES", 300_000)
        folder = tmp_path / "c"
        write_checkpoint(find_dimensions(str(tiny.qwen2_5_vl), "reasoner", ids=special_ids()), folder)
        index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        assert {"model.embed_tokens.weight", "visual.patch_embed.proj.weight"} <= index.keys()
        assert len(set(index.values())) == len(list(folder.glob("*.safetensors"))) > 2
        config = json.loads((folder / "config.json").read_text())
        assert "text_config" not in config and config["rope_scaling"]["type"] == "mrope"
        assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]

    def test_norms_are_one_biases_zero_and_no_two_rows_alike(self, tiny: Tiny, tmp_path: Path) -> None:
        write_checkpoint(find_dimensions(str(tiny.qwen2_5_vl), "reasoner", ids=special_ids()), tmp_path / "c")
        weights = stored(tmp_path / "c")
        assert torch.all(weights["model.norm.weight"] == 1)
        assert torch.all(weights["model.layers.0.self_attn.q_proj.bias"] == 0)
        matrix = weights["model.layers.0.mlp.up_proj.weight"]
        assert len(torch.unique(matrix, dim=0)) == len(matrix)

    def test_is_known_again_only_while_it_is_whole_and_of_the_same_dimensions(self, tiny: Tiny, tmp_path: Path) -> None:
        small = find_dimensions(str(tiny.qwen2_5_vl), "reasoner", ids=special_ids())
        other = find_dimensions(str(tiny.qwen3_vl), "reasoner", ids=special_ids())
        folder = tmp_path / "c"
        assert not is_whole(folder, small)
        write_checkpoint(small, folder)
        assert is_whole(folder, small) and not is_whole(folder, other)
        weights = next(folder.glob("*.safetensors"))
        os.truncate(weights, weights.stat().st_size - 1)
        assert not is_whole(folder, small)

    def test_never_replaces_what_somebody_else_put_there(self, tiny: Tiny, tmp_path: Path) -> None:
        (tmp_path / "reasoner").mkdir()
        (tmp_path / "reasoner" / "mine.txt").write_text("precious")
        code, out, _ = run(str(tiny.profile), *tiny.dimensions("qwen2_5_vl"), *QUICK, "--disk", str(tmp_path))
        assert code == 1 and "holds something else" in out.splitlines()[-1]
        assert (tmp_path / "reasoner" / "mine.txt").read_text() == "precious"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["reasoner"]


def stored(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            weights |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return weights


class TestFolder:
    def test_disk_is_kept_and_taken_again(self, tiny: Tiny, tmp_path: Path) -> None:
        again = (str(tiny.profile), *tiny.dimensions("qwen2_5_vl"), *QUICK, "--disk", str(tmp_path / "kept"), "--json")
        first, second = (json.loads(run(*again)[1]) for _ in range(2))
        assert [first["checkpoints"][r]["reused"] for r in ("reasoner", "segmenter")] == [False, False]
        assert [second["checkpoints"][r]["reused"] for r in ("reasoner", "segmenter")] == [True, True]
        assert second["need"]["disk"] == 0 and second["fits"]

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_leaves_nothing_behind(self, number: int, code: int, tiny: Tiny, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "segzero_ros.cli", "rehearse", str(tiny.profile)]
        process = subprocess.Popen(
            [*command, *tiny.dimensions("qwen2_5_vl"), "--tokens", "900"],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("loaded"):
                break
        assert list(tmp_path.glob("segzero-rehearse-*/reasoner/*.safetensors"))
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode == code and "Traceback" not in err
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_cannot_be_made_is_a_sentence(self, tiny: Tiny) -> None:
        code, out, _ = run(str(tiny.profile), *tiny.dimensions("qwen2_5_vl"), *QUICK, "--disk", "/dev/null/weights")
        assert code == 1 and out.splitlines()[-1].startswith("the weights could not be written: ")


class TestNeed:
    def test_what_does_not_fit_is_refused_before_anything_is_made(self, tiny: Tiny, tmp_path: Path) -> None:
        huge = json.loads((tiny.qwen3_vl / "config.json").read_text())
        huge["text_config"] |= {"hidden_size": 65536, "intermediate_size": 262144, "num_hidden_layers": 100}
        huge["vision_config"]["out_hidden_size"] = 65536
        path, profile = tmp_path / "huge.json", tmp_path / "third.yaml"
        path.write_text(json.dumps(huge))
        profile.write_text(PROFILE + "model_class: qwen3_vl\n")
        disk = tmp_path / "weights"
        sizes = ("--dimensions", str(path), "--segmenter-dimensions", str(tiny.sam2))
        code, out, _ = run(str(profile), *sizes, "--dtype", "bfloat16", "--disk", str(disk))
        assert code == 1 and not disk.exists()
        last = out.splitlines()[-1]
        assert last.startswith("does not fit: needs ") and "GB of memory" in last and "are free" in last

    def test_a_folder_in_memory_counts_as_memory(self) -> None:
        assert is_in_memory(Path("/dev/shm/not-there-yet"))
        assert not is_in_memory(Path("/proc"))

    @pytest.mark.parametrize(
        ("profile", "reasoner", "segmenter"),
        [
            ("seg-zero", "qwen2_5_vl_7b", "sam2_large"),
            ("vision-reasoner", "qwen2_5_vl_7b", "sam2_large"),
            ("star", "qwen2_5_vl_7b", "sam2_large"),
            ("qwen3-vl", "qwen3_vl_4b", "sam2_large"),
        ],
    )
    def test_every_profile_that_is_published_has_its_dimensions(
        self, profile: str, reasoner: str, segmenter: str
    ) -> None:
        declared = load_profile(profile)
        assert (PUBLISHED[declared.reasoner], PUBLISHED[declared.segmenter]) == (reasoner, segmenter)

    @pytest.mark.parametrize(
        ("name", "role", "millions"),
        [
            ("qwen2_5_vl_3b", "reasoner", 3754.6),
            ("qwen2_5_vl_7b", "reasoner", 8292.2),
            ("qwen3_vl_2b", "reasoner", 2127.5),
            ("qwen3_vl_4b", "reasoner", 4437.8),
            ("qwen3_vl_8b", "reasoner", 8767.1),
            ("sam2_tiny", "segmenter", 38.9),
            ("sam2_small", "segmenter", 46.0),
            ("sam2_base_plus", "segmenter", 80.8),
            ("sam2_large", "segmenter", 224.4),
        ],
    )
    def test_shipped_dimensions_have_the_published_number_of_parameters(
        self, name: str, role: Role, millions: float
    ) -> None:
        assert find_dimensions(name, role).parameters / 1e6 == pytest.approx(millions, abs=0.1)


class TestHostileDimensions:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "not json",
            "[" * 100_000,
            '{"model_type": "gpt2"}',
            '{"model_type": ["qwen2_5_vl"]}',
            '{"model_type": "qwen2_5_vl", "text_config": 7}',
            '{"model_type": "qwen2_5_vl", "text_config": {"num_hidden_layers": 1000000000}}',
            '{"model_type": "qwen2_5_vl", "text_config": {"hidden_size": -1}}',
            '{"model_type": "qwen2_5_vl", "text_config": {"hidden_size": 1' + "0" * 5000 + "}}",
            '{"model_type": "qwen2_5_vl", "vision_config": {"patch_size": 0}}',
            '{"model_type": "' + "x" * 100_000 + '"}',
            '{"model_type": "qwen2_5_vl", "x": "' + "x" * 2_000_000 + '"}',
        ],
        ids=range(13),
    )
    def test_are_one_sentence(self, text: str, tiny: Tiny, tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        path.write_text(text)
        sizes = ("--dimensions", str(path), "--segmenter-dimensions", str(tiny.sam2))
        code, out, err = run(str(tiny.profile), *sizes, *QUICK)
        assert code == 1 and "Traceback" not in err
        assert len(out.splitlines()) == 1 and len(out) < 700

    def test_a_name_that_is_not_known_says_what_is(self, tiny: Tiny) -> None:
        code, out, _ = run(str(tiny.profile))
        assert code == 1 and "nobody/Tiny" in out and "--dimensions takes qwen2_5_vl_3b, " in out

    def test_dimensions_of_another_class_are_refused_before_they_are_written(self, tiny: Tiny) -> None:
        code, out, _ = run(str(tiny.profile), *tiny.dimensions("qwen3_vl"))
        assert code == 1 and "its reasoner is a qwen2_5_vl" in out

    @pytest.mark.parametrize(
        "wrong", [("--pictures", "0x9"), ("--pictures", "99999x99999"), ("--tokens", "0"), ("--objects", "-3")]
    )
    def test_options_that_make_no_sense_are_wrong_use(self, wrong: tuple[str, str], tiny: Tiny) -> None:
        with pytest.raises(SystemExit) as ended, redirect_stderr(io.StringIO()):
            cli.main(["rehearse", str(tiny.profile), *wrong])
        assert ended.value.code == 2


def test_the_peak_is_what_was_taken_beyond_what_was_there_also_after_much_was_freed() -> None:
    torch.ones(1_000_000)  # freed at once: from here on the C library keeps pieces of this size
    kept = [torch.ones(1_000_000) for _ in range(50)]
    del kept[:-1]
    with Peak(torch.device("cpu")) as peak:
        parts = [torch.ones(1_000_000) for _ in range(50)]
    assert 190e6 < peak.bytes < 230e6
    assert len(parts) == 50


class TestRecovery:
    def test_out_of_memory_ends_one_request_and_not_the_next(self) -> None:
        pipeline = Pipeline.load(load_profile("demo"))

        @contextmanager
        def full() -> Iterator[None]:
            def refuse(*_: object) -> None:
                raise torch.OutOfMemoryError("CUDA out of memory")

            with stages.hooked(stages.part_of(pipeline.reasoner, stages.TOWER), before=refuse):
                yield

        recovery = measure_recovery(pipeline, stages.picture(320, 200), "the red mug", full())
        assert recovery.full == Status.OUT_OF_MEMORY.value
        assert recovery.good

    @pytest.mark.parametrize(("full", "after"), [("BACKEND_ERROR", "OK"), ("OUT_OF_MEMORY", "OUT_OF_MEMORY")])
    def test_anything_else_is_not_good(self, full: str, after: str) -> None:
        assert not Recovery(full, after).good

    def test_a_request_that_fails_ends_the_measuring_with_its_status(self) -> None:
        pipeline = Pipeline.load(load_profile("demo"))
        with pytest.raises(SegzeroError) as failed:
            stages.ask(pipeline, stages.picture(8, 8), "")
        assert failed.value.status is Status.BAD_INSTRUCTION


@pytest.mark.gpu
def test_on_a_gpu_a_request_without_memory_ends_as_such_and_the_next_is_answered() -> None:
    code, out, _ = run("seg-zero", "--dimensions", "qwen2_5_vl_3b", "--device", "cuda", "--json", *QUICK)
    found = json.loads(out)
    assert code == 0 and found["machine"]["gpu"]
    (only,) = found["runs"]
    assert only["recovery"]["full"] == "OUT_OF_MEMORY"
    assert only["recovery"]["after"] == "PARSE_ERROR"  # random words, but an answer
