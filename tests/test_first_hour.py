"""The first hour with data of one's own: what goes wrong is put right and the same call works; what is made is kept."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_from_disk
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image as PIL

from training.data import lettering, out_folder, prepare
from training.data.lettering import Letters, showable
from training.data.page import page
from training.data.samples import Problem
from training.data.summary import _kind


def own_data(folder: Path, count: int = 2) -> tuple[Path, Path]:
    photos = folder / "photos"
    photos.mkdir(parents=True)
    polygon = [[4, 4, 24, 4, 24, 24, 4, 24]]
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "mug"}]}
    for n in range(count):
        PIL.new("RGB", (64, 48), (40 * n, 90, 30)).save(photos / f"{n}.png")
        data["images"].append({"id": n, "file_name": f"{n}.png", "width": 64, "height": 48})
        data["annotations"].append({"id": n, "image_id": n, "category_id": 1, "segmentation": polygon})
    path = folder / "my.json"
    path.write_text(json.dumps(data))
    return path, photos


def call(path: Path, photos: Path, out: Path, *more: str) -> list[str]:
    return ["--coco", str(path), "--images", str(photos), "--out", str(out), "--square", "56", *more]


def count(out: Path) -> int:
    return len(load_from_disk(str(out))["train"])


def test_a_run_without_a_row_leaves_nothing_but_what_was_wrong(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, photos = own_data(tmp_path)
    for photo in photos.iterdir():
        photo.rename(tmp_path / photo.name)
    out = tmp_path / "rows"
    assert prepare.main(call(path, photos, out)) == 1
    assert "no row is good" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == ["problems.jsonl"]
    for n in range(2):
        (tmp_path / f"{n}.png").rename(photos / f"{n}.png")
    assert prepare.main(call(path, photos, out)) == 0  # the photos put right, the same call
    assert count(out) == 2 and (out / "problems.jsonl").read_text() == ""
    assert not (out / out_folder.LOCK).exists()


def test_the_right_images_go_into_the_same_folder(tmp_path: Path) -> None:
    path, photos = own_data(tmp_path)
    (tmp_path / "wrong").mkdir()
    assert prepare.main(call(path, tmp_path / "wrong", tmp_path / "rows")) == 1
    assert prepare.main(call(path, photos, tmp_path / "rows", "--points", "circles")) == 0
    assert count(tmp_path / "rows") == 2


def test_a_killed_run_without_a_row_is_begun_anew_with_other_settings(tmp_path: Path) -> None:
    path, photos = own_data(tmp_path)
    out = tmp_path / "rows"
    (out / "shards").mkdir(parents=True)
    (out / "shards" / "00000.json").write_text('{"problems": [], "hashes": []}')
    (out / "settings.json").write_text('{"annotations": "old", "images": "wrong"}')
    assert prepare.main(call(path, photos, out)) == 0
    assert count(out) == 2


def test_rows_are_protected_from_other_settings_finished_or_not(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, photos = own_data(tmp_path)
    out = tmp_path / "rows"
    assert prepare.main(call(path, photos, out)) == 0
    assert prepare.main(call(path, photos, out, "--points", "circles")) == 2
    (out / "summary.json").unlink()
    (out / "shards").mkdir()
    (out / "shards" / "00000.arrow").touch()
    assert prepare.main(call(path, photos, out, "--points", "circles")) == 2
    assert capsys.readouterr().err.count("was begun with other settings or data (points published -> circles)") == 2


@pytest.mark.parametrize("name", ["notes.txt", "settings.json", "shards"])
def test_nothing_of_somebody_else_s_is_touched(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, photos = own_data(tmp_path)
    out = tmp_path / "rows"
    out.mkdir()
    (out / name).write_text('{"editor.tabSize": 4}')
    assert prepare.main(call(path, photos, out)) == 2
    assert "is not empty, and nothing that prepare began" in capsys.readouterr().err
    assert [(f.name, f.read_text()) for f in out.iterdir()] == [(name, '{"editor.tabSize": 4}')]


def test_a_refused_overlap_leaves_the_folder_free(tmp_path: Path) -> None:
    path, photos = own_data(tmp_path)
    assert prepare.main(call(path, photos, tmp_path / "test")) == 0
    refuse = ("--not-in", str(tmp_path / "test"), "--overlap", "refuse")
    assert prepare.main(call(path, photos, tmp_path / "rows", *refuse)) == 1
    assert [file.name for file in (tmp_path / "rows").iterdir()] == ["problems.jsonl"]
    assert prepare.main(call(path, photos, tmp_path / "rows")) == 0


def test_two_at_once_in_one_folder_are_one_and_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, photos = own_data(tmp_path)
    out = tmp_path / "rows"
    with out_folder.alone(out):
        command = [sys.executable, "-m", "training.cli", "prepare", *call(path, photos, out)]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert (
            second.stderr.strip()
            .splitlines()[-1]
            .startswith(f"segzero-train prepare: another process is preparing rows in {out}: wait for it")
        )
        assert [file.name for file in out.iterdir()] == [out_folder.LOCK]
    assert prepare.main(call(path, photos, out)) == 0


def test_a_lock_that_was_just_taken_away_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock

    def late(file: Any, how: int) -> None:
        (tmp_path / out_folder.LOCK).unlink()  # its process ended between our opening and locking
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(ValueError, match="another process is preparing"), out_folder.alone(tmp_path):
        pass


def font_with(folder: Path, characters: str) -> Path:
    """A font that has these characters as black boxes."""
    builder = FontBuilder(1000, isTTF=True)
    names = [".notdef", *(f"u{ord(c):04x}" for c in characters)]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"u{ord(c):04x}" for c in characters})
    pen = TTGlyphPen(None)
    for n, point in enumerate(((100, 0), (900, 0), (900, 800), (100, 800))):
        (pen.lineTo if n else pen.moveTo)(point)
    pen.closePath()
    box = pen.glyph()
    builder.setupGlyf(dict.fromkeys(names, box))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(folder / "boxes.ttf")
    return folder / "boxes.ttf"


def test_the_page_shows_a_script_by_a_font_that_has_it_and_escapes_it_where_none_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dejavu = lettering.candidates()[0]
    monkeypatch.setattr(lettering, "candidates", lambda: (dejavu,))
    assert showable("the red Würfel, красный 红😀") == "the red Würfel, красный \\u7ea2😀"
    assert showable("方\U00020000") == "\\u65b9\\U00020000"
    boxes = font_with(tmp_path, "红色")
    monkeypatch.setattr(lettering, "candidates", lambda: (dejavu, boxes))
    assert showable("红色 block, 方") == "红色 block, \\u65b9"
    assert Letters(20).getlength("红色") == pytest.approx(40)
    solution = json.dumps([{"bbox_2d": [5, 5, 20, 20], "point_2d": [9, 9]}])
    row = {"image": np.full((48, 64, 3), 250, np.uint8), "solution": solution, "img_width": 64, "img_height": 48}

    def ink(text: str) -> int:
        page([row | {"problem": text}], tmp_path / "page.png")
        return int((np.asarray(PIL.open(tmp_path / "page.png"))[-60:, :, 0] < 60).sum())

    assert ink("红色红色") > ink("") + 4 * 60  # four black boxes of about 10 x 10 pixels


def test_a_preferred_font_comes_before_the_machine_s_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import font_manager

    found = ["/f/Bold/NotoSansCJK-Bold.ttc", "/f/Arial.ttf", "/f/wqy-zenhei.ttc", "/f/NotoSansCJK-Regular.ttc"]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: found)
    lettering.candidates.cache_clear()
    try:
        names = [path.name for path in lettering.candidates()]
    finally:
        lettering.candidates.cache_clear()
    assert names == ["DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "Arial.ttf"]


def test_the_page_is_drawn_where_the_words_have_no_font(tmp_path: Path) -> None:
    path, photos = own_data(tmp_path)
    path.write_text(path.read_text().replace("mug", "红色的方块 \u0633\u0644\u0627\u0645 \ud55c\uad6d"))
    assert prepare.main(call(path, photos, tmp_path / "rows")) == 0
    assert PIL.open(tmp_path / "rows" / "page.png").size[1] > 300


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("the file's name has Windows' separators", "the file's name has Windows' separators"),
        ("its 16-bit grey is shown", "its 16-bit grey is shown"),
        ("a polygon has 12.5 points of 'a' (3, 4)", "a polygon has N points of .. .."),
        ("the image /a/b.png is missing", "the image is missing"),
    ],
)
def test_reasons_are_counted_without_what_differs_from_row_to_row(reason: str, kind: str) -> None:
    assert _kind(Problem("f", "1", reason, "mended")) == f"mended: {kind}"
