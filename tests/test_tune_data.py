"""Labelled flows as they would have been regrouped with fewer packets, or a shorter wait."""

from pathlib import Path

import numpy as np
import pytest
from test_tune_cost import batch_of
from test_views import packet

from etcpipe.dataset import Input, find_recordings
from etcpipe.gpu.views import VIEWS
from etcpipe.layout import READY_REASONS
from etcpipe.tune.data import read_flows, until_silent

LAB = Path(__file__).parent / "data" / "lab"
COLUMNS = VIEWS["features"].column_names("none")


def by_flow(flows, rows):
    """Return rows in the order of their flows; in which order rows end depends on the wait."""
    return rows[np.lexsort((flows.dataset.first_us, flows.dataset.capture))]


@pytest.mark.parametrize(("wait_s", "depth"), [(0.02, 20), (0.2, 4)])
def test_rows_after_a_shorter_wait_are_those_of_captures_read_with_it(wait_s, depth):
    recordings = find_recordings(LAB)
    longer = read_flows(recordings, Input(20, wait_s=1.0), view="features")
    shorter = read_flows(recordings, Input(20, wait_s=wait_s), view="features")
    found, expected = longer.rows(COLUMNS, depth, wait_s), shorter.rows(COLUMNS, depth)
    assert (longer.rows(COLUMNS, depth) != found).any()
    np.testing.assert_array_equal(by_flow(longer, found), by_flow(shorter, expected))


def test_packets_after_the_first_gap_are_left_out():
    flows = batch_of([[packet(0), packet(300), packet(310)], [packet(5), None, packet(205)]])
    found = until_silent(flows, 0.2)
    assert found.packets["present"].tolist() == [[1, 0, 0], [1, 0, 1]]
    assert [READY_REASONS[i] for i in found.reason] == ["idle", "depth"]
    assert flows.packets["present"].sum() == 5
    assert until_silent(flows, 0.3) is flows
