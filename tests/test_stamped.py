"""Which message belongs to an image by its stamp. Times are nanoseconds where they are not named seconds."""

from __future__ import annotations

import threading
from typing import Any

from segzero_ros.core.contract import Cancel
from segzero_ros.core.stamped import MOST, StampedBuffer

MS = 1_000_000
S = 1000 * MS
FOREVER = 60.0  # seconds; only a failing test waits so long


def buffer(*stamps: int, room: int = 1000) -> StampedBuffer:
    made = StampedBuffer(room)
    for stamp in stamps:
        made.put(f"at {stamp // MS}", stamp, 10)
    return made


def find(made: StampedBuffer, stamp: int, slop: float = 0.02, timeout: float = 0.0) -> tuple[Any, str]:
    return made.find(stamp, slop, timeout, Cancel())


def test_the_same_stamp_wins_over_a_near_one() -> None:
    assert find(buffer(1000 * MS, 1010 * MS, 1020 * MS), 1010 * MS) == ("at 1010", "")


def test_without_the_same_stamp_it_is_the_nearest_within_the_slop() -> None:
    made = buffer(1000 * MS, 1033 * MS)
    assert find(made, 1015 * MS)[0] == "at 1000" and find(made, 1018 * MS)[0] == "at 1033"
    assert find(buffer(1000 * MS, 1100 * MS), 1020 * MS) == ("at 1000", "")
    nothing, why = find(buffer(1000 * MS, 1100 * MS), 1021 * MS)
    assert nothing is None and why == "the nearest is 0.021 s away, more than 0.02 s"


def test_a_near_one_is_not_taken_while_the_same_stamp_may_still_come() -> None:
    came = iter([1000 * MS, 1016 * MS])

    def pull() -> None:
        stamp = next(came)
        made.put(f"at {stamp // MS}", stamp, 10)

    made = StampedBuffer(1000, pull)
    assert find(made, 1016 * MS, timeout=FOREVER) == ("at 1016", "")


def test_a_later_stamp_ends_the_waiting_for_one_that_was_lost() -> None:
    assert find(buffer(1000 * MS, 1033 * MS), 1016 * MS, timeout=FOREVER)[0] == "at 1000"


def test_what_comes_after_a_clock_was_set_back_is_waited_for() -> None:
    came = iter([None, 3 * S])

    def pull() -> None:
        if stamp := next(came):
            made.put("of the new run", stamp, 10)

    made = StampedBuffer(1000, pull)
    made.put("of the old run", 89 * S, 10)
    made.put("of the old run", 90 * S, 10)
    assert find(made, 3 * S, timeout=FOREVER) == ("of the new run", "")


def test_a_stamp_that_goes_back_forgets_all_of_the_run_before() -> None:
    made = buffer(1000 * MS, 2000 * MS)
    made.put("anew", 1010 * MS, 10)
    assert find(made, 1000 * MS, slop=0.0)[0] is None and find(made, 1010 * MS)[0] == "anew"


def test_a_stamp_out_of_order_takes_its_place_and_forgets_nothing() -> None:
    made = buffer(1000 * MS, 1033 * MS, 1066 * MS, 1060 * MS)
    assert [find(made, s * MS)[0] for s in (1000, 1033, 1060, 1066)] == [f"at {s}" for s in (1000, 1033, 1060, 1066)]


def test_messages_without_bytes_do_not_pile_up() -> None:
    made = StampedBuffer(1000)
    for n in range(1, MOST + 101):
        made.put(n, n * MS, 0)
    assert find(made, 100 * MS, slop=0.0)[0] is None and find(made, 101 * MS)[0] == 101


def test_a_message_that_comes_twice_replaces_itself_alone() -> None:
    made = buffer(1000 * MS, 1033 * MS, 1033 * MS)
    assert find(made, 1000 * MS)[0] == "at 1000" and find(made, 1033 * MS)[0] == "at 1033"


def test_a_cancel_ends_the_waiting() -> None:
    cancel, got = Cancel(), []
    made = StampedBuffer(1000, cancel.set)
    thread = threading.Thread(target=lambda: got.append(made.find(S, 0.02, FOREVER, cancel)))
    thread.start()
    thread.join(FOREVER / 2)
    assert got == [(None, "none has come")]


def test_a_stamp_of_zero_never_matches() -> None:
    assert find(buffer(0), 10 * MS) == (None, "their stamps are zero")
    assert find(buffer(0, 10 * MS), 0) == (None, "the image's stamp is zero")
    assert find(buffer(), 10 * MS) == (None, "none has come")


def test_the_oldest_go_when_the_bytes_are_used_up_and_the_newest_is_kept_whatever_its_size() -> None:
    made = buffer(1 * S, 2 * S, 3 * S, 4 * S, room=30)
    assert find(made, 1 * S)[0] is None and find(made, 2 * S)[0] == "at 2000"
    made.put("large", 5 * S, 1000)
    assert find(made, 4 * S)[0] is None and find(made, 5 * S)[0] == "large"
    made.put("small", 6 * S, 10)
    assert find(made, 5 * S)[0] is None and find(made, 6 * S)[0] == "small"
    made.clear()
    assert find(made, 6 * S) == (None, "none has come") and made.count == 6
