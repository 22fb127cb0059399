"""`segzero serve`: the command that starts vLLM, for every profile; vLLM itself is a stub that records it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from segzero_ros import cli, serve
from segzero_ros.core.contract import SegzeroError
from segzero_ros.core.profile import Profile
from segzero_ros.models.checkpoints import EMBEDDED
from segzero_ros.models.server_address import read_address
from segzero_ros.profiles import list_profiles, load_profile
from segzero_ros.serve import Machine, build_command, count_tokens, memory_note, round_up_rank

DEMO = load_profile("demo")
CPU, GPU = Machine(True), Machine(True, free=int(78e9), total=int(80e9))
STUB = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
record = {"argv": sys.argv, "pid": os.getpid(), "space": os.environ.get("VLLM_CPU_KVCACHE_SPACE"),
          "key": os.environ.get("VLLM_API_KEY")}
print("stub", json.dumps(record), flush=True)
if "--wait" in sys.argv:
    while True:
        time.sleep(0.1)  # pause() sleeps on where the signal came just before it
sys.exit(3)
"""


def options(words: list[str]) -> dict[str, str]:
    """Each option with its value, "" for a flag."""
    found: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            found[word] = "" if following.startswith("--") else following
    return found


def command_of(profile: Profile, machine: Machine = GPU, passed: tuple[str, ...] = ()) -> dict[str, str]:
    return options(build_command(profile, machine, "python", "127.0.0.1", 8000, list(passed)).words)


def save_adapter(folder: Path, rank: Any, module: str = "model.layers.0.self_attn.q_proj", **settings: Any) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    keys = [f"base_model.model.{module}.lora_{letter}.weight" for letter in "AB"]
    save_file({key: torch.zeros(1, 1) for key in keys}, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


# Tokens of the square, and of prompt and answer together: at least picture, template, 512 of instruction, and answer.
LIMITS = {
    "cosmos-reason2": (832, 676 + 512 + 4096),
    "demo": (224, 196 + 512 + 160),
    "qwen3-vl": (832, 676 + 512 + 1024),
    "qwen3.5": (832, 676 + 512 + 1024),
    "seg-zero": (840, 900 + 512 + 1024),
    "star": (840, 900 + 512 + 1024),
    "star-8b": (832, 676 + 512 + 1024),
    "vision-reasoner": (840, 900 + 512 + 2048),
}


@pytest.mark.parametrize("profile", list_profiles(), ids=lambda profile: profile.name)
def test_every_shipped_profile_has_its_limits(profile: Profile, tmp_path: Path) -> None:
    side, tokens = LIMITS[profile.name]
    if profile.adapter:
        profile = replace(profile, adapter=str(save_adapter(tmp_path / "adapter", 64)), adapter_subfolder=None)
    found = command_of(profile)
    embedded = profile.reasoner == "embedded"
    assert found["--model"] == (str(EMBEDDED / "reasoner") if embedded else profile.reasoner)
    assert tokens < int(found["--max-model-len"]) < tokens + 900
    pixels = json.loads(found["--mm-processor-kwargs"])
    assert pixels["min_pixels"] <= side**2 == pixels["max_pixels"]
    assert json.loads(found["--limit-mm-per-prompt"]) == {"image": 1, "video": 0}
    assert found["--host"] == "127.0.0.1" and found["--dtype"] == profile.dtype
    assert found["--gpu-memory-utilization"] == "0.90"
    assert ("--enable-lora" in found) == bool(profile.adapter)
    assert not {"--trust-remote-code", "--enforce-eager"} & found.keys()


def test_the_name_that_is_served_is_the_profiles_and_the_url_asks_for_it(tmp_path: Path) -> None:
    plain = build_command(DEMO, CPU, "python", "0.0.0.0", 8001, [])
    assert options(plain.words)["--served-model-name"] == "demo" and plain.url == "http://127.0.0.1:8001/v1"
    adapted = replace(DEMO, adapter=str(save_adapter(tmp_path / "a", 8)))
    command = build_command(adapted, CPU, "python", "::1", 8001, [])
    assert options(command.words)["--served-model-name"] == "demo-base" and command.url == "http://[::1]:8001/v1#demo"


@pytest.mark.parametrize(("rank", "taken"), [(64, 64), (24, 32), (1, 8), (257, 320), (512, 512)])
def test_the_rank_is_rounded_up_to_one_that_vllm_takes(tmp_path: Path, rank: int, taken: int) -> None:
    folder = save_adapter(tmp_path / "a", rank)
    found = command_of(replace(DEMO, adapter=str(folder)))
    assert found["--max-lora-rank"] == str(taken) == str(round_up_rank(rank))
    assert found["--lora-modules"] == f"demo={folder}" and "--enable-tower-connector-lora" not in found


def test_a_rank_of_single_modules_counts_too(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", 16, rank_pattern={"q_proj": 100})
    assert command_of(replace(DEMO, adapter=str(folder)))["--max-lora-rank"] == "128"


def test_the_url_that_is_shown_names_the_adapter_whatever_the_profile_is_called(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", 16)
    profile = replace(DEMO, name="my arm #2 50%20", adapter=str(folder))
    command = build_command(profile, GPU, "python", "127.0.0.1", 8000, [])
    assert read_address(command.url).model == profile.name and f"{profile.name}={folder}" in command.words


def test_an_adapter_of_the_vision_tower_is_not_left_out(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", 16, "model.visual.blocks.0.attn.qkv")
    assert "--enable-tower-connector-lora" in command_of(replace(DEMO, adapter=str(folder)))


@pytest.mark.parametrize("rank", [513, 0, -1, "64", None, True, 1e3])
def test_a_wrong_rank_is_a_sentence(tmp_path: Path, rank: Any) -> None:
    folder = save_adapter(tmp_path / "a", rank)
    with pytest.raises(SegzeroError, match="rank"):
        command_of(replace(DEMO, adapter=str(folder)))


def test_an_adapter_that_is_not_here_says_how_to_fetch_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(SegzeroError, match="segzero fetch star"):
        command_of(load_profile("star"))


class TestMachine:
    def test_a_cpu_has_its_own_number_format_and_no_graphs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
        command = build_command(DEMO, CPU, "python", "127.0.0.1", 8000, [])
        found = options(command.words)
        assert found["--dtype"] == "float32" and "--enforce-eager" in found
        assert "--gpu-memory-utilization" not in found
        assert command.environment == {"VLLM_CPU_KVCACHE_SPACE": "1"}
        monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "9")
        assert not build_command(DEMO, CPU, "python", "127.0.0.1", 8000, []).environment, "the user's own holds"

    @pytest.mark.parametrize(
        ("free", "total", "share"), [(23e9, 24e9, "0.79"), (30e9, 64e9, "0.40"), (5e9, 8e9, "0.20")]
    )
    def test_the_segmenter_keeps_its_room_on_the_gpu(self, free: float, total: float, share: str) -> None:
        assert command_of(DEMO, Machine(True, int(free), int(total)))["--gpu-memory-utilization"] == share

    def test_weights_that_do_not_fit_are_told_before(self) -> None:
        small = Machine(True, free=int(11e9), total=int(12e9))
        assert "will not start" in memory_note(load_profile("seg-zero"), small)
        assert not memory_note(load_profile("seg-zero"), GPU) and not memory_note(DEMO, small)


def test_a_square_that_every_server_would_resize_is_refused() -> None:
    with pytest.raises(SegzeroError, match="no multiple of 28"):
        count_tokens(replace(load_profile("seg-zero"), square=850))


def test_a_folder_without_a_chat_template_gets_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = command_of(replace(DEMO, reasoner=str(tmp_path)))
    assert Path(found["--chat-template"]).is_file()
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert "--chat-template" not in command_of(replace(DEMO, reasoner=str(tmp_path)))
    assert "--chat-template" not in command_of(DEMO)


def test_a_revision_goes_with_the_name() -> None:
    assert command_of(replace(load_profile("seg-zero"), reasoner_revision="v1"))["--revision"] == "v1"


@pytest.mark.parametrize("passed", [["--port", "9000"], ["--port=9000"], ["--dtype", "half", "--host", "0.0.0.0"]])
def test_what_the_url_shows_is_not_passed_behind_its_back(passed: list[str]) -> None:
    with pytest.raises(SegzeroError, match="before the --"):
        build_command(DEMO, GPU, "python", "127.0.0.1", 8000, passed)


def test_what_is_passed_stands_last_so_that_it_overrules() -> None:
    words = build_command(DEMO, CPU, "python", "127.0.0.1", 8000, ["--max-model-len", "512"]).words
    assert words[-2:] == ["--max-model-len", "512"]


@pytest.fixture
def stub(tmp_path: Path) -> dict[str, str]:
    """An environment whose Python finds a vLLM that says how it was started."""
    folder = tmp_path / "stub" / "vllm" / "entrypoints" / "openai"
    folder.mkdir(parents=True)
    for part in (folder, folder.parent, folder.parent.parent):
        (part / "__init__.py").touch()
    (folder / "api_server.py").write_text(STUB)
    path = os.pathsep.join([str(tmp_path / "stub"), str(Path(__file__).parents[1])])
    return {**os.environ, "PYTHONPATH": path, "SEGZERO_API_KEY": "sesame-open-0123"}


COMMAND = [sys.executable, "-m", "segzero_ros.cli", "serve", "demo", "--device", "cpu", "--port", "8123"]


def recorded(line: str) -> dict[str, Any]:
    assert line.startswith("stub "), line
    found: dict[str, Any] = json.loads(line.removeprefix("stub "))
    return found


def test_it_becomes_vllm_with_what_it_showed(stub: dict[str, str]) -> None:
    odd = "a b'$(c)"
    done = subprocess.run([*COMMAND, "--", "--note", odd], env=stub, capture_output=True, text=True, timeout=120)
    shown, line = done.stdout.splitlines()
    found = recorded(line)
    assert done.returncode == 3, "the exit code is vLLM's"
    assert found["argv"][-2:] == ["--note", odd] and found["argv"][1:3] == ["--model", str(EMBEDDED / "reasoner")]
    assert found["space"] == "1" and found["key"] == "sesame-open-0123"
    assert "VLLM_CPU_KVCACHE_SPACE=1" in shown and "--port 8123" in shown
    assert "sesame" not in shown + done.stderr + str(found["argv"]), "a command can be read by everybody here"
    again = subprocess.run(["bash", "-c", shown], env=stub, capture_output=True, text=True, timeout=120)
    assert recorded(again.stdout)["argv"] == found["argv"], "the shown command can be copied"


def test_signals_reach_vllm(stub: dict[str, str]) -> None:
    with subprocess.Popen([*COMMAND, "--", "--wait"], env=stub, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert recorded(process.stdout.readline())["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 7


def test_a_dry_run_starts_nothing(stub: dict[str, str]) -> None:
    done = subprocess.run([*COMMAND, "--dry-run"], env=stub, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "api_server" in done.stdout and "stub" not in done.stdout.splitlines()[-1][:4]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "has no vLLM: give the interpreter that has it"),
        (("--python", "/nowhere/python"), "cannot be started"),
        (("--python", "/bin/true"), "no Python that can be asked"),
        (("--reasoner", "http://127.0.0.1:1/v1"), "is a server already"),
        (("--reasoner", "no/such/folder/here"), "there is no folder"),
    ],
)
def test_what_cannot_be_started_is_a_sentence(
    more: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.os, "execve", lambda *_: pytest.fail("started"))
    dry = ["--dry-run"] if "/folder/" in str(more) else []
    assert cli.main(["serve", "demo", *more, *dry]) == 1
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said and said.count("\n") == 1


@pytest.mark.parametrize("arguments", [["serve"], ["serve", "demo", "--port", "0"], ["serve", "demo", "--nonsense"]])
def test_wrong_use_is_exit_code_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2


def test_an_unknown_profile_is_exit_code_two() -> None:
    assert cli.main(["serve", "nobody"]) == 2
