"""tools/frames.py in small: frames of a camera's size reach the node's own inputs, from another process."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rclpy.utilities import get_rmw_implementation_identifier

from tools import frames

RELIABLE = frames.Case("720p", 10, frames=20)


def test_every_frame_of_a_reliable_camera_arrives() -> None:
    row = frames.measure(RELIABLE)
    assert row.size == 1280 * 720 * 3
    assert (row.sent, row.arrived) == (20, 20)


@pytest.mark.skipif("fastrtps" not in get_rmw_implementation_identifier(), reason="the profile is Fast DDS's")
def test_with_the_profile_a_best_effort_camera_is_heard_too() -> None:
    """Without it most of these frames are lost; with it all arrive, unless the machine is busy."""
    row = frames.measure(replace(RELIABLE, reliable=False, profile=str(frames.PROFILE)))
    assert row.arrived > 15


def test_tables_have_a_line_for_size_form_and_rate_and_a_column_for_reliability_and_transport() -> None:
    slow = frames.Row(RELIABLE, 20, 20, 7.0, 2_764_800, 5.0)
    profile = frames.Row(replace(RELIABLE, profile="x.xml"), 20, 19, 10.0, 2_764_800, 5.0)
    *_, line = frames.table([slow, profile]).splitlines()
    assert line == "| 720p | rgb8 | 2.8 | 10 | 20 of 20 at 7 Hz | 19 of 20 |  |  |"
