"""The command `segzero` as a process: what works without ROS, torch and a model, and one answer with them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segzero_ros.files import replaced, why_not_writable

COMMAND = Path(sys.executable).with_name("segzero")
TORCH = importlib.util.find_spec("torch") is not None


def segzero(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(COMMAND), *arguments], capture_output=True, text=True)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.fromarray(np.full((48, 64, 3), 128, np.uint8)).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def test_it_explains_itself() -> None:
    shown = segzero("--help")
    assert shown.returncode == 0 and all(name in shown.stdout for name in ("segment", "doctor", "profiles"))
    assert segzero("--version").stdout.startswith("segzero_ros ")


def test_it_lists_the_profiles() -> None:
    shown = segzero("profiles")
    assert shown.returncode == 0 and "vision-reasoner" in shown.stdout


def test_doctor_names_what_is_missing() -> None:
    """Without torch its verdict is bad; without ROS it is not."""
    shown = segzero("doctor", "--profile", "demo")
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in shown.stdout
    assert shown.returncode == (0 if TORCH else 1), shown.stdout
    assert ("torch cannot be imported" in shown.stdout) != TORCH


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            (),
            ("fly",),
            ("segment",),
            ("segment", "nothing.png", "a mug"),
            ("segment", "PHOTO", "a mug", "--profile", "x"),
        ),
        *(
            ("segment", "PHOTO", "a mug", "--thought-budget", wrong)
            for wrong in ("-2", "-1s", "1e3", "nans", "many", "1" * 5000)
        ),
        *(
            ("segment", "PHOTO", "a mug", *wrong)
            for wrong in (
                ("--verify", "guess"),
                ("--verify", "vote", "--verify-samples", "0"),
                ("--verify", "vote", "--min-confidence", "2"),
                ("--verify", "vote", "--min-confidence", "nan"),
                ("--min-confidence", "0.5"),
            )
        ),
    ],
)
def test_wrong_use_is_a_sentence_and_exit_2(arguments: tuple[str, ...], photo: str) -> None:
    shown = segzero(*(photo if a == "PHOTO" else a for a in arguments))
    assert shown.returncode == 2 and shown.stderr and "Traceback" not in shown.stderr


@pytest.mark.skipif(not TORCH, reason="no torch here")
def test_the_embedded_model_answers(photo: str) -> None:
    shown = segzero("segment", photo, "a mug", "--json", "--device", "cpu")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["status"] in ("OK", "NO_OBJECT")


@pytest.mark.skipif(not TORCH, reason="no torch here")
class TestPointing:
    """Boxes and points on the command line."""

    @pytest.mark.parametrize(
        ("arguments", "prompts"),
        [
            (["--box", "1,2,30,40"], [([1, 2, 30, 40], [])]),
            (["--box", "1,2,30,40", "--point", "5,6", "--point=7.5,8"], [([1, 2, 30, 40], [[5, 6], [7.5, 8]])]),
            (
                ["--box", "1,2,30,40", "--box", "5,5,9,9", "--point", "6,6"],
                [([1, 2, 30, 40], []), ([5, 5, 9, 9], [[6, 6]])],
            ),
            (["--point", "5,6", "--point", "7,8"], [(None, [[5, 6]]), (None, [[7, 8]])]),
            (["--point", "5,6", "--negative-point", "7,8"], [(None, [[5, 6]])]),
            (
                ["--point", "5,6", "--box", "1,2,30,40", "--point", "7,8"],
                [(None, [[5, 6]]), ([1, 2, 30, 40], [[7, 8]])],
            ),
        ],
    )
    def test_a_point_belongs_to_the_box_before_it(self, photo: str, arguments: list[str], prompts: Any) -> None:
        shown = segzero("segment", photo, *arguments, "--json", "--device", "cpu")
        assert shown.returncode == 0, shown.stderr
        said = json.loads(shown.stdout)
        assert [(i["prompt_box"], i["prompt_points"]) for i in said["instances"]] == prompts
        assert {i["label"] for i in said["instances"]} == {"object"} and said["instruction"] == ""
        assert said["model"] == "embedded" and shown.stderr.count("parameters") == 1, "no reasoner is loaded"

    @pytest.mark.parametrize("order", [["PHOTO", "mug", "--box", "1,2,9,9"], ["PHOTO", "--box", "1,2,9,9", "mug"]])
    def test_words_are_a_name_then(self, photo: str, order: list[str]) -> None:
        shown = segzero("segment", *(photo if a == "PHOTO" else a for a in order), "--json", "--device", "cpu")
        assert json.loads(shown.stdout)["instances"][0]["label"] == "mug", shown.stderr

    def test_several_pictures_are_asked_the_same(self, photo: str) -> None:
        other = Path(photo).with_name("other.png")
        Image.new("RGB", (20, 20)).save(other)
        shown = segzero("segment", photo, str(other), "--point", "30,10", "--json", "--device", "cpu")
        lines = [json.loads(line) for line in shown.stdout.splitlines()]
        assert [line["status"] for line in lines] == ["OK", "BAD_REQUEST"] and shown.returncode == 1
        assert "(30, 10) lies outside the image of 20 x 20 pixels" in lines[1]["message"]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--box", "1,2,3"], "--box 1,2,3: it is not X1,Y1,X2,Y2"),
            (["--box", "a,b,c,d"], "--box a,b,c,d: it is not"),
            (["--box", "1" * 9999], "it is not X1,Y1,X2,Y2"),
            (["--point", "1;2"], "--point 1;2: it is not X,Y"),
            (["--point", "nan,2"], "prompt 1: its point is not two finite numbers"),
            (["--negative-point", "1,2"], "there is no --box and no --point before it"),
            (
                ["--box", "1,2,30,40", "--box", "30,2,1,40"],
                "prompt 2: its box [30, 2, 1, 40] has its edges the wrong way",
            ),
            (["--point", "64,2"], "lies outside the image of 64 x 48 pixels"),
            (["nothing.png", "--point", "1,2"], "nothing.png cannot be read"),
            (["two", "names", "--point", "1,2"], "two cannot be read"),
            (["   ", "--point", "1,2"], "the instruction is empty"),
        ],
    )
    def test_what_is_no_prompt_is_one_line_before_anything_is_loaded(
        self, photo: str, arguments: list[str], words: str
    ) -> None:
        shown = segzero("segment", photo, *arguments)
        assert shown.returncode == 2 and words in shown.stderr and shown.stderr.count("\n") == 1, shown.stderr
        assert len(shown.stderr) < 700 and "loading" not in shown.stderr

    def test_without_prompts_an_instruction_is_needed(self, photo: str) -> None:
        shown = segzero("segment", photo)
        assert shown.returncode == 2 and "instruction" in shown.stderr


def run(*command: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A line as a user types it."""
    return run("bash", "-c", f'exec 3>&1; segzero() {{ "{COMMAND}" "$@"; }}; {line}')


class TestEnds:
    """However it ends, there is a code and at most a line."""

    def test_a_reader_that_has_enough_is_no_error(self) -> None:
        shown = shell("segzero profiles | true; exit ${PIPESTATUS[0]}")
        assert shown.returncode in (0, 141) and not shown.stderr

    def test_a_full_disk_behind_the_output_is_a_sentence(self) -> None:
        shown = shell("segzero profiles > /dev/full")
        assert shown.returncode == 1 and "No space left" in shown.stderr and "Traceback" not in shown.stderr

    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
    def test_closed_streams_change_no_code(self, closed: str) -> None:
        assert shell(f"segzero profiles {closed}").returncode == 0
        assert shell(f"segzero segment nothing.png mug {closed}").returncode == 2

    @pytest.mark.parametrize("module", ["argparse", "numpy", "yaml"])
    def test_an_interruption_of_the_imports_is_a_line(self, tmp_path: Path, module: str) -> None:
        (tmp_path / f"{module}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
        shown = run(sys.executable, "-c", INTERRUPTED.format(folder=tmp_path))
        assert shown.returncode == 130 and shown.stderr == "segzero: interrupted\n"

    @pytest.mark.parametrize("module", ["yaml", "numpy"])
    def test_a_missing_library_is_a_line(self, tmp_path: Path, module: str) -> None:
        (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError('no {module}', name='{module}')")
        shown = run(sys.executable, "-c", INTERRUPTED.format(folder=tmp_path))
        assert shown.returncode == 1 and f"the Python module {module} is missing" in shown.stderr
        assert "Traceback" not in shown.stderr

    def test_a_broken_library_is_a_line(self, tmp_path: Path) -> None:
        (tmp_path / "numpy.py").write_text("raise ImportError('built for another Python')")
        shown = run(sys.executable, "-c", INTERRUPTED.format(folder=tmp_path))
        assert shown.returncode == 1 and "built for another Python" in shown.stderr
        assert "Traceback" not in shown.stderr and "segzero doctor" in shown.stderr

    @pytest.mark.skipif(not TORCH, reason="no torch here")
    @pytest.mark.parametrize("errors", ["/dev/full", ">(true)"])
    def test_errors_that_nobody_can_read_take_no_answer_away(self, photo: str, errors: str) -> None:
        shown = shell(f"segzero segment {photo} 'a mug' --json 2> {errors}")
        assert shown.returncode == 0 and json.loads(shown.stdout)["status"] in ("OK", "NO_OBJECT")

    @pytest.mark.skipif(not TORCH, reason="no torch here")
    def test_an_interruption_while_models_load_is_a_line(self, photo: str, tmp_path: Path) -> None:
        """In the middle of torch's import, where it is swallowed or becomes another error."""
        swallowed = "try:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    raise ImportError"
        (tmp_path / "tokenizers.py").write_text(f"import os, signal\n{swallowed}")
        shown = run(sys.executable, "-c", INTERRUPTED.format(folder=tmp_path), "segment", photo, "a mug")
        assert shown.returncode == 130 and shown.stderr.endswith("segzero: interrupted\n")
        assert "Traceback" not in shown.stderr

    def test_an_interruption_of_the_very_end_changes_nothing(self) -> None:
        ending = f"import atexit, os; atexit.register(os.kill, os.getpid(), {int(signal.SIGINT)})\n"
        shown = run(sys.executable, "-c", ending + INTERRUPTED.format(folder="."))
        assert shown.returncode == 0 and not shown.stderr and "vision-reasoner" in shown.stdout

    def test_a_terminal_that_knows_ascii_alone_gets_escapes(self, photo: str) -> None:
        environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
        shown = run(COMMAND, "segment", photo, "mug", "--out", "Ordner-ü/x.png", env=environment)
        assert shown.returncode == 2 and "Ordner-\\xfc" in shown.stderr


INTERRUPTED = """
import sys
sys.path.insert(0, "{folder}")
from segzero_ros.cli import main
sys.argv = ["segzero", *(sys.argv[1:] or ["profiles"])]
sys.exit(main())
"""


class TestPlaces:
    """Where results are to go is checked before anything is loaded."""

    @pytest.mark.parametrize(
        ("option", "name", "words"),
        [
            ("--out", "no/folder/x.png", "there is no folder"),
            ("--out", ".", "ending"),
            ("--out", "folder.png", "it is a folder"),
            ("--out", "x.jpg", "ending"),
            ("--labels", "x.webp", "ending"),
            ("--overlay", "x.gif", "ending"),
            ("--overlay", "x", "ending"),
            ("--out", "a" * 300 + ".png", "too long"),
            ("--out", "fifo.png", "no ordinary file"),
            ("--out", "device.png", "no ordinary file"),
            ("--out", "gone/link.png", "there is no folder"),
            ("--out", "photo.png", "would overwrite"),
            ("--overlay", "other.png", "would overwrite"),
        ],
    )
    def test_a_place_that_cannot_be_written_is_a_sentence(self, photo: str, option: str, name: str, words: str) -> None:
        folder = Path(photo).parent
        (folder / "folder.png").mkdir()
        os.mkfifo(folder / "fifo.png")
        (folder / "device.png").symlink_to("/dev/full")
        (folder / "other.png").symlink_to("photo.png")
        shown = run(COMMAND, "segment", photo, "mug", option, name, cwd=folder)
        assert shown.returncode == 2 and words in shown.stderr and "Traceback" not in shown.stderr
        assert "loading" not in shown.stderr and len(shown.stderr) < 900

    def test_two_results_have_two_places(self, photo: str) -> None:
        shown = run(COMMAND, "segment", photo, "mug", "--out", "x.png", "--labels", "./x.png", cwd=Path(photo).parent)
        assert shown.returncode == 2 and "would overwrite" in shown.stderr

    def test_pictures_of_one_name_would_share_a_result(self, photo: str) -> None:
        folder = Path(photo).parent
        Image.new("RGB", (9, 9)).save(folder / "photo.jpg")
        shown = run(COMMAND, "segment", photo, folder / "photo.jpg", "mug", "--out", folder / "masks")
        assert shown.returncode == 2 and "would overwrite" in shown.stderr

    def test_several_pictures_want_a_folder(self, photo: str) -> None:
        folder = Path(photo).parent
        shutil.copy(photo, folder / "b.png")
        shown = run(COMMAND, "segment", photo, folder / "b.png", "mug", "--out", photo)
        assert shown.returncode == 2 and "must be a folder" in shown.stderr

    def test_words_without_quotes_are_no_pictures(self, photo: str) -> None:
        shown = run(COMMAND, "segment", photo, "the", "red", "mug", "--out", Path(photo).parent / "masks")
        assert shown.returncode == 2 and "quotes" in shown.stderr and "loading" not in shown.stderr


@pytest.mark.skipif(not TORCH, reason="no torch here")
def test_a_result_that_cannot_be_written_takes_neither_the_answer_nor_the_others_away(tmp_path: Path) -> None:
    Image.new("RGB", (70_000, 4)).save(tmp_path / "long.png")  # longer than a JPEG may be
    wishes = ["--out", tmp_path / "mask.png", "--overlay", tmp_path / "seen.jpg", "--labels", tmp_path / "labels.png"]
    shown = run(COMMAND, "segment", tmp_path / "long.png", "a mug", "--json", *wishes)
    assert shown.returncode == 1 and json.loads(shown.stdout)["width"] == 70_000
    assert "seen.jpg could not be written" in shown.stderr and "Traceback" not in shown.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.png", "long.png", "mask.png"]


@pytest.mark.skipif(not TORCH, reason="no torch here")
def test_several_pictures_are_answered_one_by_one(photo: str) -> None:
    folder = Path(photo).parent
    Image.fromarray(np.full((720, 1280), 60000, np.uint16)).save(folder / "deep.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    names = [photo, folder / "broken.png", folder / "deep.png"]
    shown = run(COMMAND, "segment", *names, "a mug", "--json", "--overlay", folder / "seen", "--out", folder / "masks")
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [line["image"] for line in lines] == [str(n) for n in names]
    assert lines[1]["status"] == "UNSUPPORTED_ENCODING" and "broken.png" in lines[1]["message"]
    assert all(lines[n]["status"] in ("OK", "NO_OBJECT") for n in (0, 2))
    assert shown.returncode == 1 and "3 pictures, 2 answered" in shown.stderr and "pictures:" in shown.stderr
    assert sorted(p.name for p in (folder / "seen").iterdir()) == ["deep.png", "photo.png"]
    assert Image.open(folder / "masks" / "deep.png").size == (1280, 720)


class TestReplacedFiles:
    def test_what_was_there_stays_until_the_new_one_is_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "mask.png"
        path.write_bytes(b"before")
        with pytest.raises(OSError, match="full"), replaced(path) as file:
            file.write(b"half")
            raise OSError(28, "the disk is full")
        assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
        with pytest.raises(KeyboardInterrupt), replaced(path) as file:
            raise KeyboardInterrupt
        assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
        with replaced(path) as file:
            file.write(b"after")
        assert path.read_bytes() == b"after" and list(tmp_path.iterdir()) == [path]

    def test_a_link_and_the_rights_stay(self, tmp_path: Path) -> None:
        target = tmp_path / "target.png"
        target.write_bytes(b"")
        target.chmod(0o640)
        (tmp_path / "link.png").symlink_to(target)
        with replaced(tmp_path / "link.png") as file:
            file.write(b"new")
        assert (tmp_path / "link.png").is_symlink() and target.read_bytes() == b"new"
        assert target.stat().st_mode & 0o777 == 0o640

    @pytest.mark.parametrize("name", ["nul\0.png", "x" * 250 + ".png", "x/y.png"])
    def test_why_a_place_cannot_be_written_is_known_before(self, tmp_path: Path, name: str) -> None:
        assert bool(why_not_writable(tmp_path / name)) == ("x" * 250 not in name)
        assert not list(tmp_path.iterdir())
