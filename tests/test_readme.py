"""training/README.md says what is there: its tables are the code's, its commands, configurations and links exist."""

from __future__ import annotations

import importlib
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from segzero_ros.profiles import load_profile
from tools import training_readme as readme
from training import cli
from training.data import prepare
from training.evaluation import evaluate
from training.finetune import configuration
from training.measures import markdown
from training.rewards import PROFILES

TEXT = readme.PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"segzero-train [a-z]+[^\n`#]*", TEXT)


@pytest.fixture(scope="module")
def tables() -> dict[str, str]:
    return readme.tables()


@pytest.mark.parametrize("name", ["article", "recipes", "ablations"])
def test_the_tables_are_what_the_code_says(name: str, tables: dict[str, str]) -> None:
    assert markdown.read(readme.PAGE, name) == tables[name], "run python -m tools.training_readme"


def test_every_configuration_is_in_a_line(tables: dict[str, str]) -> None:
    for path in configuration.every():
        assert f"| `{path.stem}` |" in tables["recipes"] + tables["ablations"]


def test_memory_is_of_the_larger_phase() -> None:
    c = configuration.load("lora_3b_24gb")
    memory, host, hours = readme.estimates(c)
    # vLLM's half of 24 GB and the weights are more than what training takes while it sleeps.
    assert 12 + 7.5 < memory < 24
    assert (host, readme.estimates(configuration.load("lora_3b_24gb", ["data.train=unknown"]))[2]) == (0, 0)
    assert hours == pytest.approx(c.hardware.hours, rel=0.2)


def test_a_name_that_is_gone_is_named() -> None:
    with pytest.raises(ValueError, match=r"rows\.py has no circle_of"):
        readme.line_of("training/data/rows.py", "circle_of")


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!http|#)[^)#]+)", TEXT):
        assert (readme.PAGE.parent / target).exists(), target
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert anchor in {h.lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", TEXT, re.M)}


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_commands_have_the_options_that_they_are_given(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, name, *words = command.split()
    with pytest.raises(SystemExit):
        importlib.import_module(cli.COMMANDS[name][0]).main(["--help"])
    known = capsys.readouterr().out
    assert set(re.findall(r"--[a-z-]+", " ".join(words))) <= set(re.findall(r"--[a-z-]+", known))
    if name == "train" and words[0] != "NAME":
        configuration.load(words[0], [words[n + 1] for n, word in enumerate(words) if word == "--set"])


PREPARED = [prepare.parser().parse_args(shlex.split(c)[2:]) for c in COMMANDS if "prepare --" in c]


def test_what_is_run_here_is_said_of_every_configuration_of_the_embedded_model() -> None:
    embedded = {p.stem for p in configuration.every() if configuration.load(str(p)).model.architecture == "embedded"}
    assert set(readme.RUN_HERE) == embedded


def test_every_folder_that_a_configuration_names_is_made_by_a_command() -> None:
    every = [configuration.load(str(path)).data for path in configuration.every()]
    named = {folder for data in every for folder in (data.train, data.validation)}
    made = {str(a.out) for a in PREPARED}
    assert named - made == {"data/demo_rows", "data/demo_rows_val"}, "make train-demo writes these itself"
    assert {folder for a in PREPARED for folder in a.join or ()} <= made


@pytest.mark.parametrize("folder", sorted({str(a.out) for a in PREPARED if str(a.out) in TEXT}))
def test_a_folder_s_rows_have_the_form_and_masks_that_its_configurations_read(folder: str) -> None:
    users = [configuration.load(str(p)) for p in configuration.every()]
    users = [c for c in users if folder in (c.data.train, c.data.validation)]
    for a in (a for a in PREPARED if str(a.out) == folder):
        assert {c.data.answer for c in users} <= {a.form}
        scored = [c for c in users if c.method == "grpo" or folder == c.data.validation]
        needed = any(PROFILES[c.reward.profile].needs_masks for c in scored)
        assert a.masks == (needed or folder.startswith("data/parts/star"))
        assert a.square == (224 if "tabletop" in folder else 840)


def test_commands_that_evaluate_name_profiles_that_are_there_or_that_export_makes() -> None:
    asked = [evaluate.parser().parse_args(shlex.split(c)[2:]) for c in COMMANDS if "evaluate --" in c]
    for name in {a.profile for a in asked}:
        if not name.startswith("checkpoints/"):
            load_profile(str(readme.ROOT / name) if name.endswith(".yaml") else name)
    trained = re.findall(r"checkpoints/([a-z0-9_]+)", " ".join(c for c in COMMANDS if "--reasoner" in c))
    assert trained and all(configuration.find(name).is_file() for name in trained)


def test_the_server_is_started_with_what_trl_wants_of_it_and_the_training_with_keys_that_there_are() -> None:
    from trl.scripts.vllm_serve import ScriptArguments, build_command

    from training.finetune.grpo import arguments

    text = (readme.ROOT / "docs/decisions/rollout-engines.md").read_text(encoding="utf-8")
    section = text[text.index("## Starting the server") :]
    block = re.findall(r"```bash\n(.*?)```", section, re.S)[0].replace("\\\n", " ")
    serve, launch = (shlex.split(line) for line in block.splitlines() if line.startswith("CUDA"))
    assert "VLLM_SERVER_DEV_MODE=1" in serve
    imposed = build_command(ScriptArguments(model="a"))
    for flag in ("--weight-transfer-config", "--logprobs-mode", "--max-logprobs"):
        assert serve[serve.index(flag) + 1] == imposed[imposed.index(flag) + 1]
    given = dict(pairwise(launch))
    settings = [launch[n + 1] for n, word in enumerate(launch) if word == "--set"]
    c = configuration.load(given["training.train"], [*settings, "trl.use_cpu=true", "rollout=transformers"])
    args = arguments(c)
    assert (args.vllm_server_host, args.vllm_server_port) == tuple(
        kind(serve[serve.index(flag) + 1]) for flag, kind in (("--host", str), ("--port", int))
    )
    assert c.model.path in serve
    assert c.accumulation(int(given["--num_processes"])) == 32
    assert (readme.ROOT / given["--config_file"]).is_file()
    for key in re.findall(r"`(?:--set )?grpo\.(vllm_\w+)", section):
        assert hasattr(args, key), key


def test_every_command_is_explained_and_every_target_is_in_the_makefile() -> None:
    assert {command.split()[1] for command in COMMANDS} == set(cli.COMMANDS)
    targets = set(re.findall(r"^([a-z-]+):", (readme.ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z-]+)", re.sub(r"<!--.*?-->", "", TEXT))) <= targets
    for module in re.findall(r"python -m (training[.\w]+)", TEXT):
        assert Path(readme.ROOT, *module.split(".")).with_suffix(".py").is_file(), module
