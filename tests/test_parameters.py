"""The table of parameters: what it refuses, and that the shipped YAML files agree with it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from segzero_ros.core.contract import ThoughtBudget
from segzero_ros.ros import parameters
from segzero_ros.segment_command import read_budget

CONFIGS = sorted((Path(__file__).parent.parent / "config").glob("*.yaml"))


@pytest.mark.parametrize("p", parameters.TABLE, ids=lambda p: p.name)
def test_every_default_is_valid_and_described(p):
    assert parameters.validate(p.name, p.default) is None
    assert p.sentence.endswith(".") and f"| `{p.name}` |" in parameters.markdown()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "twice"),
        ("max_age", -1.0),
        ("max_age", float("nan")),
        ("autostart", 1),
        ("max_age", 1),
        ("profile", 7),
        ("thought_budget", -2),
        ("thought_seconds", -2.0),
        ("constrain", "on"),
        ("verify", "guess"),
        ("verify_samples", 0),
        ("min_confidence", 1.5),
    ],
)
def test_a_bad_value_is_refused_with_a_sentence(name, value):
    sentence = parameters.validate(name, value)
    assert sentence and name in sentence and sentence.endswith((".", ")."))


def test_names_outside_the_table_are_not_its_business():
    assert parameters.validate("use_sim_time", True) is None
    assert parameters.validate("qos_overrides./image.subscription.depth", 3) is None


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_shipped_configurations_hold_valid_values_for_any_namespace(path):
    values = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    for name, value in values.items():
        assert name in parameters.BY_NAME and parameters.validate(name, value) is None


def test_the_readme_holds_the_table_as_it_is() -> None:
    assert parameters.markdown().strip() in (Path(__file__).parent.parent / "README.md").read_text()


def test_a_budget_means_the_same_in_the_node_the_command_and_python() -> None:
    class Node:
        def __init__(self, **values: object) -> None:
            self.values = values

        def get_parameter(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(value=self.values.get(name, parameters.BY_NAME[name].default))

    assert parameters.thought_budget(Node()) is None, "no limit is the default"
    for given, words, wanted in (
        ({"thought_budget": 0}, "0", ThoughtBudget(0)),
        ({"thought_budget": 64}, "64", ThoughtBudget(64)),
        ({"thought_seconds": 0.0}, "0s", ThoughtBudget(seconds=0.0)),
        ({"thought_seconds": 1.5}, "1.5s", ThoughtBudget(seconds=1.5)),
    ):
        assert parameters.thought_budget(Node(**given)) == read_budget(words) == wanted
    assert parameters.thought_budget(Node(thought_budget=-1)) is None and read_budget("-1") == ThoughtBudget()
