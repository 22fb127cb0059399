"""The architecture as a rule: which room may import which.

Imports inside functions count, and so do modules that are named by a string: for importlib, `python -m`, or a table of
commands. Importing a module imports the `__init__` of the folders above it.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "segzero_ros"
# From the bottom up; a file imports its own storey and those below. Files that are not named stand for their room.
STOREYS = (
    {"segzero_ros.core", "segzero_ros.files", "segzero_ros.process", "segzero_ros.imports"},
    {"segzero_ros.models", "segzero_ros.worker", "segzero_ros.overlay", "segzero_ros.launching"},
    {"segzero_ros.pipeline", "segzero_ros.profiles"},  # public facades
    {"segzero_ros.ros", "segzero_ros.client", "segzero_ros.asking", "segzero_ros.answers"},
    {"segzero_ros.rehearse", "segzero_ros.segment_command", "segzero_ros.profiles_command", "segzero_ros.fetch"},
    {"segzero_ros.serve", "segzero_ros.server_doctor"},
    {"segzero_ros.doctor"},
    {"segzero_ros.cli", "segzero_ros.__main__"},
)
FREE = {"segzero_ros"}  # __init__.py: the version
NOT_IN_CORE = {"torch", "transformers", "safetensors", "huggingface_hub", "rclpy"}
MESSAGES = ("_msgs", "_srvs", "_interfaces")
# The rooms of training/, likewise; fine-tuning and evaluation stand side by side and know nothing of each other.
ROOMS = (
    {"measures", "data"},
    {"rewards"},
    {"finetune", "evaluation"},
    {"engines", "embedded"},
    {"experiments"},
)
DOORS = {"cli.py", "evaluate.py", "train.py", "__init__.py", "README.md", "configs"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TRAINING = {name_of(path): path for path in sorted((ROOT / "training").rglob("*.py"))}
ALL = FILES | TRAINING


def imports_of(name: str) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    return modules_in(ALL[name].read_text(encoding="utf-8"), name)


def modules_in(source: str, name: str) -> set[str]:
    """The modules that the source of the module `name` imports or has run, itself not among them."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    out: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            out |= {w if w in ALL else str(node.module) for w in whole}
        elif isinstance(node, ast.Call) and called(node) in IMPORTERS:
            out |= {text for text in map(beginning, [*node.args, *(k.value for k in node.keywords)]) if text}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            out |= {found for found in [*LAUNCHED.findall(node.value), node.value.partition(":")[0]] if known(found)}
    above = {".".join(other.split(".")[:n]) for other in out for n in range(1, other.count(".") + 1)}
    # A module inside a folder is loaded after the folder's __init__ in any case.
    return {o for o in out | {a for a in above if a in ALL and not name.startswith(f"{a}.")} if o != name}


IMPORTERS = {"import_module", "__import__", "run_module", "find_spec", "resolve_name", "reload"}
LAUNCHED = re.compile(r"-m[ =]((?:training|segzero_ros)(?:\.\w+)+)")


def known(name: str) -> bool:
    """Whether a string names a module of ours; one word alone, such as "training", may mean anything."""
    return "." in name and name in ALL


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", "") or getattr(node.func, "id", "")


def beginning(node: ast.expr) -> str:
    """Of a text, or of the folder in which an f-string or a sum looks for a module; ""."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr) and node.values:
        return beginning(node.values[0]).rpartition(".")[0]
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mod)):
        return beginning(node.left).rpartition(".")[0]
    return ""


def storey(name: str) -> int:
    room = ".".join(name.split(".")[:2])
    return next(n for n, rooms in enumerate(STOREYS) if room in rooms)


@pytest.mark.parametrize("name", sorted(FILES.keys() - FREE))
def test_imports_run_one_way(name: str) -> None:
    for other in imports_of(name) & FILES.keys() - FREE:
        assert storey(other) <= storey(name), f"{name} imports {other}, which stands above it"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The names of one, or nothing."""
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_file_imports_itself_by_way_of_others() -> None:
    graph = {name: imports_of(name) & ALL.keys() - FREE for name in ALL}
    found = circle(graph)
    assert not found, " -> ".join(found)
    graph["training.measures.metrics"] = {"training.evaluation.evaluate"}
    assert len(circle(graph)) > 2, "a circle is not seen"


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_doors_open_into_rooms_below_the_experiments() -> None:
    """Only the experiments import themselves."""
    for name in TRAINING:
        if room(name) != "experiments":
            assert not {o for o in imports_of(name) if room(o) == "experiments" and o.startswith("training.")}, name


@pytest.mark.parametrize(
    ("planted", "imported"),
    [
        ("import training.evaluation.evaluate", "training.evaluation.evaluate"),
        ("def f():\n    from training.evaluation import evaluate", "training.evaluation.evaluate"),
        ("import importlib\nimportlib.import_module('training.evaluation.evaluate')", "training.evaluation.evaluate"),
        ("from importlib import import_module as f\nf(name='training.evaluation.page')", "training.evaluation.page"),
        ("__import__('training.evaluation.page', fromlist=['x'])", "training.evaluation.page"),
        ("importlib.import_module(f'training.evaluation.{name}')", "training.evaluation"),
        ("importlib.import_module('training.evaluation.' + name)", "training.evaluation"),
        ("COMMANDS = {'page': ('training.evaluation.page', 'a page')}", "training.evaluation.page"),
        ("ENTRY = 'training.evaluation.page:main'", "training.evaluation.page"),
        ("subprocess.run([sys.executable, '-m', 'training.evaluation.page'])", "training.evaluation.page"),
        ("subprocess.run('python -m training.evaluation.page --all', shell=True)", "training.evaluation.page"),
        ("runpy.run_module('training.evaluation.page')", "training.evaluation.page"),
    ],
)
def test_a_violation_is_seen_however_it_is_written(planted: str, imported: str) -> None:
    assert imported in modules_in(planted, "training.finetune.run")
    assert wrong_ways("training.finetune.run", modules_in(planted, "training.finetune.run"))


def test_what_only_speaks_of_a_module_is_no_import() -> None:
    prose = '"""As `python -m training.evaluation.page` does."""\nprint("training", "training/evaluation/page.py")'
    assert modules_in(prose, "training.finetune.run") == set()


def test_a_module_brings_the_init_of_the_folders_above_it_and_a_circle_through_one_is_seen() -> None:
    inside = "from training.rewards.texts import SQUARE"
    assert "training.rewards" in modules_in(inside, "training.finetune.run")
    assert "training.rewards" not in modules_in(inside, "training.rewards.star"), "it is loaded already"
    graph = {name: imports_of(name) & ALL.keys() - FREE for name in ALL}
    graph["training.measures"] |= modules_in("import training.data.rows", "training.measures")
    graph["training.data.rows"] |= modules_in("import training.measures.metrics", "training.data.rows")
    assert {"training.measures", "training.data.rows"} <= set(circle(graph))


INSIDE = sorted(name for name in TRAINING if any(room(name) in rooms for rooms in ROOMS))


@pytest.mark.parametrize("name", INSIDE)
def test_the_rooms_of_training_import_one_way(name: str) -> None:
    assert not wrong_ways(name, imports_of(name))


def wrong_ways(name: str, others: set[str]) -> list[str]:
    """Of what a module in a room of training/ imports: what stands beside or above its room, or is a door."""
    level = {one: n for n, rooms in enumerate(ROOMS) for one in rooms}
    near = room(name)
    inside = {other for other in others & TRAINING.keys() - {"training"} if room(other) != near}
    return sorted(other for other in inside if room(other) not in level or level[room(other)] >= level[near])


def test_training_is_a_house_of_few_rooms() -> None:
    entries = {p.name for p in (ROOT / "training").iterdir() if p.name != "__pycache__"}
    assert entries == DOORS.union(*ROOMS)
    assert len(entries) <= 14


def test_the_package_that_runs_imports_nothing_of_training() -> None:
    for name in FILES:
        assert not {other for other in imports_of(name) if other.partition(".")[0] == "training"}, name


@pytest.mark.parametrize("name", sorted(TRAINING))
def test_no_file_of_training_is_longer_than_500_lines(name: str) -> None:
    assert len(TRAINING[name].read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("name", sorted(n for n in FILES if n.startswith("segzero_ros.core")))
def test_the_core_imports_neither_ros_nor_a_model_library(name: str) -> None:
    roots = {other.partition(".")[0] for other in imports_of(name)}
    assert not roots & NOT_IN_CORE and not any(root.endswith(MESSAGES) for root in roots)


def test_the_core_loads_neither_ros_nor_a_model_library() -> None:
    core = ", ".join(n for n in FILES if n.startswith("segzero_ros.core"))
    code = f"import sys, {core}; print(*({NOT_IN_CORE!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_class_is_longer_than_200_lines(name: str) -> None:
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            assert (node.end_lineno or 0) - node.lineno < 200, f"{name}.{node.name}"


def test_no_file_has_the_name_of_a_module_of_the_standard_library() -> None:
    """A script that is run from its own folder would find ours instead."""
    stems = {path.stem for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert not {stem for stem in stems & sys.stdlib_module_names if importlib.util.find_spec(stem)} - {"profile"}
