"""Which frame is used, and what belongs to it. Times are nanoseconds."""

import threading

import pytest

from segzero_ros.core.contract import Cancel, SegzeroError, Status
from segzero_ros.core.frames import Frame, FrameStore, Side

S = 1_000_000_000


def take(store, now, max_age=1.0, timeout=0.0, cancel=None):
    return store.take(lambda: now, max_age, timeout, cancel or Cancel())


def test_without_a_frame_it_is_no_image_and_with_an_old_one_a_stale_image():
    store = FrameStore()
    with pytest.raises(SegzeroError) as error:
        take(store, 0)
    assert error.value.status is Status.NO_IMAGE
    store.put("old", 1 * S, 1 * S)
    with pytest.raises(SegzeroError) as error:
        take(store, 5 * S)
    assert error.value.status is Status.STALE_IMAGE
    assert take(store, 5 * S, max_age=0).image == "old"


def test_the_next_frame_is_waited_for_when_the_newest_is_too_old():
    store, got = FrameStore(), []
    store.put("old", 1 * S, 1 * S)
    thread = threading.Thread(target=lambda: got.append(take(store, 5 * S, timeout=30.0).image))
    thread.start()
    store.put("next", 5 * S, 5 * S)
    thread.join(30)
    assert got == ["next"]


def test_a_cancel_ends_the_waiting():
    store, cancel, got = FrameStore(), Cancel(), []

    def wait():
        try:
            take(store, 0, timeout=30.0, cancel=cancel)
        except SegzeroError as error:
            got.append(error.status)

    thread = threading.Thread(target=wait)
    thread.start()
    cancel.set()
    store.wake()
    thread.join(10)
    assert got == [Status.CANCELLED]


def test_a_frame_that_goes_back_in_time_replaces_the_newer_stamp_and_drops_its_camera_info():
    store = FrameStore({"camera_info": Side()})
    store.put_side("camera_info", "info 9", 9 * S)
    store.put("at 9", 9 * S, 9 * S)
    store.put("at 2", 2 * S, 2 * S)
    frame = take(store, 2 * S)
    assert frame.image == "at 2" and not frame.sides


def test_a_clock_that_goes_back_makes_the_frame_stale():
    store = FrameStore()
    store.put("before the loop", 90 * S, 90 * S)
    with pytest.raises(SegzeroError):
        take(store, 3 * S)


def test_a_stamp_of_zero_is_as_old_as_its_arrival():
    store = FrameStore()
    store.put("unstamped", 0, 50 * S)
    assert take(store, 50 * S).image == "unstamped"


def test_camera_info_of_the_same_stamp_is_preferred_to_the_last():
    store = FrameStore({"camera_info": Side()})
    store.put_side("camera_info", "same", 1 * S)
    store.put_side("camera_info", "later", 2 * S)
    store.put("image", 1 * S, 1 * S)
    newest = store.newest()
    assert newest is not None and newest.sides["camera_info"] == "same"


def test_a_side_message_joins_only_an_image_that_it_fits() -> None:
    rule = Side(lambda image, info: "" if image == info else f"{info} is not of {image}", max_age=5.0)
    store = FrameStore({"camera_info": rule})
    store.put_side("camera_info", "left", 9 * S)
    store.put_side("camera_info", "right", 9 * S + 1)
    store.put("left", 10 * S, 10 * S)
    frame = store.newest()
    assert frame and frame.sides == {"camera_info": "left"} and not frame.missing
    store.put("top", 11 * S, 11 * S)
    frame = store.newest()
    assert frame and not frame.sides and frame.missing == {"camera_info": "right is not of top"}


def test_a_side_message_that_is_too_old_is_missing_and_says_so() -> None:
    store = FrameStore({"depth": Side(max_age=0.5)})
    store.put_side("depth", "depth", 1 * S)
    store.put("image", 2 * S, 2 * S)
    frame = store.newest()
    assert frame and not frame.sides and "1.0 s" in frame.missing["depth"]


def test_without_any_side_message_that_is_what_is_missing() -> None:
    store = FrameStore({"camera_info": Side()})
    store.put("image", 2 * S, 2 * S)
    frame = store.newest()
    assert frame and frame.missing == {"camera_info": "none has come"}


def test_the_source_is_asked_until_a_frame_comes() -> None:
    asked = []

    def pull() -> None:
        asked.append(1)
        if len(asked) == 3:
            store.put("image", 5 * S, 5 * S)

    store = FrameStore(pull=pull)
    assert take(store, 5 * S, timeout=30.0).image == "image" and len(asked) == 3


def test_a_frame_after_the_last_one_is_waited_for() -> None:
    store = FrameStore()
    store.put("first", 1 * S, 1 * S)
    with pytest.raises(SegzeroError) as error:
        store.take(lambda: 1 * S, 0.0, 0.0, Cancel(), after=1)
    assert error.value.status is Status.STALE_IMAGE and "no newer" in error.value.message


def test_a_side_is_found_for_a_frame_that_did_not_come_here() -> None:
    store = FrameStore(
        {"camera_info": Side(lambda image, message: "" if message in image else f"{message} is another")}
    )
    assert store.beside("camera_info", Frame("given left", 2 * S, 2 * S, 0)) == (None, "none has come")
    store.put_side("camera_info", "left", 1 * S)
    assert store.beside("camera_info", Frame("given left", 2 * S, 2 * S, 0)) == ("left", "")
    assert store.beside("camera_info", Frame("given right", 2 * S, 2 * S, 0)) == (None, "left is another")
