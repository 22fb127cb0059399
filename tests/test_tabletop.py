"""The simulated tabletop: same seed, same scene; instructions that the scene decides; splits that never meet."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.tabletop.instructions import KINDS, answer, mirror, thought, write
from training.data.tabletop.scene import HELD_OUT, World, random_camera, random_light
from training.data.tabletop.store import Scenes, Thing, describe, render_shard
from training.embedded.batch import segments


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenes]:
    root = tmp_path_factory.mktemp("tabletop")
    for split in ("train", "test-ood"):
        (root / split).mkdir()
        render_shard(root / split, split, 0, 12, depth=True)
    return {split: Scenes(root / split) for split in ("train", "test-ood")}


def test_a_shard_is_the_same_when_made_again(scenes: dict[str, Scenes], tmp_path) -> None:
    render_shard(tmp_path, "train", 0, 12, depth=False)
    again = Scenes(tmp_path)
    assert all(np.array_equal(again.rgb(i), scenes["train"].rgb(i)) for i in range(12))
    assert again.records == scenes["train"].records


def test_held_out_combinations_are_in_test_ood_alone(scenes: dict[str, Scenes]) -> None:
    def combinations(split: str) -> list[set[tuple[str, str]]]:
        return [{(t.category, t.color) for t in scenes[split].things(i)} for i in range(12)]

    assert not any(seen & HELD_OUT for seen in combinations("train"))
    assert any(seen & HELD_OUT for seen in combinations("test-ood"))


def test_depth_and_camera_put_an_object_where_it_stands() -> None:
    rng = np.random.default_rng(5)
    world = World()
    world.populate(rng, count=(3, 4))
    camera = random_camera(rng)
    frame = world.render(camera, random_light(rng))
    world.close()
    k, pose = camera.matrix(224), camera.pose()
    for thing in world.objects:
        ys, xs = np.nonzero(frame.ids == thing.id)
        if len(ys) < 100:
            continue
        z = frame.depth[ys, xs]
        rays = np.stack([(xs + 0.5 - k[0, 2]) / k[0, 0] * z, (ys + 0.5 - k[1, 2]) / k[1, 1] * z, z, np.ones_like(z)])
        points = (pose @ rays)[:3]
        assert np.hypot(*(np.median(points[:2], 1) - thing.position[:2])) < 0.06
        assert points[2].min() > -0.02 and points[2].max() < thing.height + 0.02


def test_the_point_lies_inside_the_mask_of_a_ring() -> None:
    ids = np.zeros((224, 224), np.uint8)
    ids[40:90, 40:90] = 1
    ids[45:85, 45:85] = 0
    x, y = describe(ids)[1]["point"]
    assert ids[y, x] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_written_with_and_without_a_target(kind: str, scenes: dict[str, Scenes]) -> None:
    rng = np.random.default_rng(0)
    for absent in (0.0, 1.0):
        items = [write(rng, scenes["train"].things(i % 12), [kind], absent) for i in range(240)]
        found = [item for item in items if item]
        assert found and all(item.absent == bool(absent) for item in found)
        assert all(answer(item).endswith("[]</answer>") == item.absent for item in found)


def _thing(i: int, category: str, color: str, x: int) -> Thing:
    return Thing(i, category, color, (x, 50, x + 30, 80), 700, 1.0, (x + 15, 65))


def test_left_and_right_change_sides_in_the_mirror() -> None:
    things = [_thing(1, "mug", "red", 20), _thing(2, "duck", "blue", 150)]
    flipped = mirror(things)
    assert flipped[0].box == (174, 50, 204, 80)
    assert mirror(flipped)[0].box == things[0].box


def test_two_alike_are_never_called_the_one() -> None:
    things = [_thing(1, "mug", "red", 20), _thing(2, "mug", "red", 150)]
    rng = np.random.default_rng(0)
    for kind in ("category", "color", "color_category", "function", "negation"):
        assert all(write(rng, things, [kind], 0.0) is None for _ in range(50))


def test_all_the_mugs_are_all_the_mugs_from_left_to_right() -> None:
    things = [_thing(1, "mug", "red", 150), _thing(2, "mug", "blue", 20), _thing(3, "duck", "red", 90)]
    rng = np.random.default_rng(0)
    items = [item for _ in range(50) if (item := write(rng, things, ["several"], 0.0)) and "mug" in item.text]
    assert items and all([t.id for t in item.targets] == [2, 1] for item in items)


def test_a_negation_tries_its_candidates_one_by_one() -> None:
    things = [_thing(1, "mug", "red", 150), _thing(2, "mug", "blue", 90), _thing(3, "mug", "red", 20)]
    rng = np.random.default_rng(0)
    items = [item for _ in range(50) if (item := write(rng, things, ["negation"], 0.0))]
    assert {thought(item) for item in items} == {
        "The target is the mug that is not red. The red mug at (35, 65) is red. The blue mug at (105, 65) is not red. "
        "The red mug at (165, 65) is red. I see a blue mug at (105, 65)."
    }
    absent = [item for _ in range(50) if (item := write(rng, things[:1], ["negation"], 1.0))]
    assert {thought(item) for item in absent} == {
        "The target is the mug that is not red. The red mug at (165, 65) is red. There is none."
    }


def test_a_relation_tries_its_candidates_one_by_one() -> None:
    things = [_thing(1, "duck", "blue", 20), _thing(2, "mug", "red", 90), _thing(3, "duck", "white", 150)]
    rng = np.random.default_rng(0)
    found = [item for _ in range(300) if (item := write(rng, things, ["spatial"], 0.0))]
    assert {thought(item) for item in found if item.spec == "duck left of the mug"} == {
        "The target is the duck left of the mug. The mug is at (105, 65). "
        "The blue duck at (35, 65) is left of the mug. The white duck at (165, 65) is not left of the mug. "
        "I see a blue duck at (35, 65)."
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_learnt_piece_by_piece_is_the_whole_answer(kind: str, scenes: dict[str, Scenes]) -> None:
    rng = np.random.default_rng(0)
    items = [write(rng, scenes["train"].things(i % 12), [kind], 0.3) for i in range(120)]
    for item in filter(None, items):
        assert "".join(text for text, _, _ in segments(item)) == answer(item) + "<|im_end|>"
