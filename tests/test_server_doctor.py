"""`segzero doctor --server`: a server that is right passes, and of each that is not, the fault is in a line."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segzero_ros import cli
from segzero_ros.core.box_faults import find_box_fault
from segzero_ros.core.contract import Box
from segzero_ros.core.geometry import box_iou
from segzero_ros.core.known_pictures import KnownPicture, draw_known_pictures
from segzero_ros.models import server_probes
from segzero_ros.models.server_probes import Constraint, Leaving
from segzero_ros.profiles import load_profile
from segzero_ros.server_doctor import check_boxes, check_server, is_held_back, judge_constraint, judge_leaving
from tests.servers.process import served

DEMO = load_profile("demo")
TRUE: list[Box] = [k.box for k in draw_known_pictures(DEMO.square)]
NAMES = (
    "connection",
    "boxes",
    "prompt tokens",
    "thought",
    "streaming",
    "speed",
    "constraint",
    "thought budget",
    "cancel",
    "seeds",
)


@pytest.fixture(scope="module")
def knowing() -> Iterator[str]:
    with served("knowing") as address:
        yield address


@pytest.fixture(scope="module")
def misbehaving() -> Iterator[str]:
    with served("misbehaving") as address:
        yield address


def examine(url: str, seconds: float = 60) -> list[tuple[str, str, str]]:
    return list(check_server(url, DEMO, seconds))


def line(lines: list[tuple[str, str, str]], name: str) -> tuple[str, str]:
    """The mark of the first line of this name, and all of its words."""
    return next((mark, f"{what} -> {advice}") for mark, what, advice in lines if what.startswith(f"{name}: "))


class TestPictures:
    @pytest.mark.parametrize("side", [224, 832, 840])
    def test_each_box_holds_its_solid_and_nothing_of_another(self, side: int) -> None:
        for known in draw_known_pictures(side):
            assert known.image.shape == (side, side, 3) and known.image.dtype == np.uint8
            x1, y1, x2, y2 = (int(v) for v in known.box)
            assert 0 < x1 < x2 < side and 0 < y1 < y2 < side
            middle = known.image[(y1 + y2) // 2, (x1 + x2) // 2].astype(int)
            table = known.image[side - 1, 0].astype(int)
            assert np.abs(middle - table).max() > 40

    def test_scale_with_the_square(self) -> None:
        for small, large in zip(draw_known_pictures(224), draw_known_pictures(896), strict=True):
            scaled = tuple(v / 4 for v in large.box)
            assert box_iou(small.box, scaled) > 0.9  # type: ignore[arg-type]

    def test_no_simple_fault_leaves_the_boxes_where_they_were(self) -> None:
        side = DEMO.square
        swapped: list[Box] = [(y1, x1, y2, x2) for x1, y1, x2, y2 in TRUE]
        mirrored: list[Box] = [(side - x2, y1, side - x1, y2) for x1, y1, x2, y2 in TRUE]
        turned: list[Box] = [(x1, side - y2, x2, side - y1) for x1, y1, x2, y2 in TRUE]
        for moved in (swapped, mirrored, turned):
            assert np.mean([box_iou(a, b) for a, b in zip(TRUE, moved, strict=True)]) < 0.3


class TestEmbeddedModel:
    def test_passes_with_boxes_on_every_picture(self, capsys: pytest.CaptureFixture[str]) -> None:
        with served("embedded") as address:
            assert cli.main(["doctor", "--server", f"{address}/v1", "--json"]) == 0
        lines = {entry["what"].partition(":")[0]: entry for entry in json.loads(capsys.readouterr().out)}
        assert tuple(lines) == NAMES
        assert {lines[name]["mark"] for name in ("connection", "boxes", "prompt tokens", "streaming")} == {"ok"}
        assert float(lines["boxes"]["what"].split()[3]) > 0.8
        assert "max_model_len 4096" in lines["connection"]["what"]


def test_a_right_server_has_a_line_for_each_check_and_none_is_bad(knowing: str) -> None:
    lines = examine(f"{knowing}/knows/v1")
    assert [what.partition(":")[0] for _, what, _ in lines] == list(NAMES)
    assert {mark for mark, _, _ in lines} == {"ok"}, lines


@pytest.mark.parametrize(
    ("way", "name", "mark", "words"),
    [
        ("shows_a_smaller_picture", "boxes", "bad", "scaled by 0.72, as in a picture of 161 x 161 pixels"),
        ("shows_a_smaller_picture", "boxes", "bad", "min_pixels"),
        ("writes_thousandths", "boxes", "bad", "set coordinates: thousandths"),
        ("swaps", "boxes", "bad", "x and y swapped"),
        ("mirrors", "boxes", "bad", "mirrored left to right"),
        ("shifts", "boxes", "bad", "shifted by +40 across and +40 down"),
        ("pads", "boxes", "bad", "scaled by 0.60 and shifted"),
        ("points_anywhere", "boxes", "bad", "no swap, mirror, scale or shift explains them"),
        ("resizes", "prompt tokens", "bad", '"max_pixels": 50176'),
        ("halves_counts", "prompt tokens", "bad", "where 196 and two around it would be right"),
        ("ignores_the_constraint", "constraint", "note", "ignored without a word; against it was written: banana"),
        ("refuses_the_constraint", "constraint", "note", "structural tags are not supported"),
        ("opens_new_turns", "thought budget", "note", "does not go on with a turn that was begun"),
        ("refuses_begun_turns", "thought budget", "note", "the last message must be the user's"),
        ("sends_all_at_the_end", "streaming", "bad", "proxy_buffering off"),
        ("ignores_a_cancel", "cancel", "bad", "/metrics still counts 1 running"),
        ("thinks_in_reasoning", "thought", "ok", "in the field reasoning,"),
        ("thinks_in_reasoning_content", "thought", "ok", "in the field reasoning_content,"),
        ("ignores_seeds", "seeds", "note", "two seeds gave one text"),
        ("forgets_seeds", "seeds", "note", "one seed gave two texts"),
        ("dies_behind_the_check", "answers", "bad", "broke the connection off"),
    ],
)
def test_a_fault_is_named_with_what_to_change(
    knowing: str, way: str, name: str, mark: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "ignores_a_cancel":
        monkeypatch.setattr(server_probes, "SOON", 0.3)
    lines = examine(f"{knowing}/{way}/v1")
    found, said = line(lines, name)
    assert found == mark and words in said, said
    assert all(advice for mark, _, advice in lines if mark == "bad")
    assert {what.partition(":")[0] for mark, what, _ in lines if mark == "bad"} <= {name}, "no other check is to blame"


def test_a_wrong_count_with_right_boxes_is_told_apart_from_a_resized_picture(knowing: str) -> None:
    lines = examine(f"{knowing}/halves_counts/v1")
    assert any("the boxes are right all the same" in what for _, what, _ in lines)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("refuses_the_key", "set SEGZERO_API_KEY"),
        ("is_a_page", "the URL is http://HOST:PORT/v1"),
        ("fails_with_a_page", "a page"),
        ("loads_for_an_hour", "wait until it has loaded"),
        ("resets", "broke the connection off"),
        ("is_no_http", "does not keep to HTTP"),
        ("hangs_after_its_head", "no answer within"),
        ("hangs_before_it_answers", "--timeout gives it more time"),
        ("does_not_stream", "not with a stream of events"),
        ("counts_nothing", "include_usage"),
        ("refuses_the_request", "start it with other limits"),
        ("serves_none", "names no model"),
        ("serves_two", "put the name behind the URL"),
        ("lists_oddly", "something else than a list of models"),
    ],
)
def test_a_server_that_cannot_be_asked_is_one_bad_line(misbehaving: str, way: str, words: str) -> None:
    lines = examine(f"{misbehaving}/{way}/v1", seconds=2 if way.startswith("hangs") else 60)
    bad = [f"{what} -> {advice}" for mark, what, advice in lines if mark == "bad"]
    assert len(bad) == 1 and lines[-1][0] == "bad" and words in bad[0], lines
    assert len(bad[0]) < 900 and "\n" not in bad[0]


@pytest.mark.parametrize(
    "way", ["writes_for_ever", "pings_for_ever", "sends_odd_types", "nests", "ends_in_half_a_token", "fails", "good"]
)
def test_hostile_servers_end_in_lines(misbehaving: str, way: str) -> None:
    lines = examine(f"{misbehaving}/{way}/v1", seconds=3)
    assert any(mark == "bad" for mark, _, _ in lines)
    assert all(len(what) < 900 and len(advice) < 500 for _, what, advice in lines)


def test_a_dead_server_is_exit_code_one_and_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        assert cli.main(["doctor", "--server", f"http://127.0.0.1:{taken.getsockname()[1]}/v1"]) == 1
    shown = capsys.readouterr().out
    assert "does the server run there?" in shown and "segzero serve demo" in shown and shown.count("[") == 1


@pytest.mark.parametrize("url", ["", "nonsense", "http://", "http://user:secret@host/v1", "http://h:99999/v1"])
def test_a_wrong_url_is_a_line_without_what_may_be_a_password(url: str) -> None:
    ((mark, what, _),) = examine(url)
    assert mark == "bad" and "secret" not in what


def test_the_key_is_in_no_line(knowing: str, misbehaving: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGZERO_API_KEY", "sesame-open-0123")
    for url in (f"{knowing}/knows/v1", f"{misbehaving}/echoes_half_the_key/v1", f"{misbehaving}/refuses_the_key/v1"):
        assert "sesame" not in str(examine(url))


def test_a_profile_with_an_adapter_is_a_note_since_only_the_server_knows(knowing: str) -> None:
    profile = replace(DEMO, adapter="someone/some-adapter")
    lines = list(check_server(f"{knowing}/knows/v1", profile, 60))
    assert [what for mark, what, _ in lines if mark == "note"] == [
        "connection: profile demo wants an adapter, which only the server knows"
    ]


class TestBoxFaults:
    @pytest.mark.parametrize("scale", [0.8, 0.9, 1.25])
    def test_a_scale_is_found_where_boxes_are_noisy(self, scale: float) -> None:
        noise = np.random.default_rng(0).normal(0, 1, (len(TRUE), 4))
        fault = find_box_fault(TRUE, [tuple(b) for b in np.array(TRUE) * scale + noise], DEMO)
        assert fault is not None and fault.what.startswith(f"scaled by {scale:.2f}, as in a picture of ")
        assert find_box_fault(TRUE, [tuple(b) for b in np.array(TRUE) + noise], DEMO) is None

    def test_thousandths_with_y_first_are_both_named(self) -> None:
        boxes = [tuple(v * 1000 / 224 for v in (b[1], b[0], b[3], b[2])) for b in TRUE]
        fault = find_box_fault(TRUE, boxes, DEMO)  # type: ignore[arg-type]
        assert fault is not None and "x and y swapped, and scaled by 4.46" in fault.what

    def test_right_boxes_and_wild_ones_have_no_fault(self) -> None:
        assert find_box_fault(TRUE, TRUE, DEMO) is None
        wild = np.random.default_rng(1).uniform(0, 224, (len(TRUE), 4))
        assert find_box_fault(TRUE, [tuple(b) for b in wild], DEMO) is None  # type: ignore[misc]

    def test_two_boxes_are_too_few(self) -> None:
        assert find_box_fault(TRUE[:2], [tuple(2 * v for v in b) for b in TRUE[:2]], DEMO) is None  # type: ignore[misc]


class TestJudgements:
    def asked(self, pieces: list[float], tokens: int = 20) -> Any:
        return SimpleNamespace(
            pieces=tuple(pieces), whole=pieces[-1], found=SimpleNamespace(completion_tokens=tokens), first=pieces[0]
        )

    def test_pieces_that_come_together_behind_a_wait_were_held_back(self) -> None:
        assert is_held_back([self.asked([3.0 + i / 1000 for i in range(20)])])
        assert not is_held_back([self.asked([1.0 + i / 10 for i in range(20)])])
        assert not is_held_back([self.asked([0.01 + i / 100_000 for i in range(20)])]), "too fast to tell"

    @pytest.mark.parametrize(
        ("times", "mark", "words"),
        [
            ((0.1, 3.0, 3.0, 0.12), "ok", "stops"),
            ((0.1, 3.0, 3.0, 2.9), "bad", "ignored"),
            ((0.1, 3.0, 0.2, 0.12), "note", "unknown, since this server answers several at once"),
            ((0.1, 0.2, 0.3, 0.12), "note", "unknown, its long answer ended"),
        ],
    )
    def test_without_a_count_a_cancel_is_judged_by_the_next_request(
        self, times: tuple[float, float, float, float], mark: str, words: str
    ) -> None:
        found, what, _ = judge_leaving(Leaving(*times, None))
        assert found == mark and words in what

    def test_an_ignored_constraint_is_bad_for_a_profile_that_wants_it(self) -> None:
        assert judge_constraint(Constraint(False, text="banana"), replace(DEMO, constrain=True))[0] == "bad"
        assert judge_constraint(Constraint(True, own=False), DEMO)[0] == "note"

    @pytest.mark.parametrize(("side", "mark"), [(0, "ok"), (8, "note"), (200, "bad")])
    def test_loose_boxes_are_a_note_and_wrong_ones_bad(self, side: int, mark: str) -> None:
        """Each box is larger than its solid, by as much to all sides."""

        def asked(known: KnownPicture) -> Any:
            x1, y1, x2, y2 = known.box
            box = [max(0, x1 - side), max(0, y1 - side), min(224, x2 + side), min(224, y2 + side)]
            return SimpleNamespace(
                picture=known, found=SimpleNamespace(text=f'<answer>[{{"bbox_2d": {box}}}]</answer>')
            )

        assert check_boxes([asked(known) for known in draw_known_pictures(224)], DEMO)[0] == mark
