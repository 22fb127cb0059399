"""training/README.md says what is there: its tables are the code's, its commands, configurations and links exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from training import cli, configuration, markdown, readme

TEXT = readme.PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"segzero-train [a-z]+[^\n`#]*", TEXT)


@pytest.fixture(scope="module")
def tables() -> dict[str, str]:
    return readme.tables()


@pytest.mark.parametrize("name", ["article", "recipes", "ablations"])
def test_the_tables_are_what_the_code_says(name: str, tables: dict[str, str]) -> None:
    assert markdown.read(readme.PAGE, name) == tables[name], "run python -m training.readme"


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


def test_every_command_is_explained_and_every_target_is_in_the_makefile() -> None:
    assert {command.split()[1] for command in COMMANDS} == set(cli.COMMANDS)
    targets = set(re.findall(r"^([a-z-]+):", (readme.ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z-]+)", re.sub(r"<!--.*?-->", "", TEXT))) <= targets
    for module in re.findall(r"python -m (training[.\w]+)", TEXT):
        assert Path(readme.ROOT, *module.split(".")).with_suffix(".py").is_file(), module
