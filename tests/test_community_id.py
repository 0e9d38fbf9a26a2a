"""Community ids against the examples of the specification's reference implementation."""

import numpy as np
import pytest
from verdicts import key_of

from etcpipe.community_id import community_ids

# From the baseline of corelight/community-id-spec, default seed 0.
BASELINE = [
    (6, ("128.232.110.120", 34855), ("66.35.250.204", 80), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (17, ("192.168.1.52", 54585), ("8.8.8.8", 53), "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    (132, ("192.168.170.8", 7), ("192.168.170.56", 7), "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="),
]


@pytest.mark.parametrize(("protocol", "a", "b", "expected"), BASELINE)
def test_id_is_that_of_the_specification(protocol, a, b, expected):
    assert community_ids(key_of(a, b, protocol)) == [expected]
    assert community_ids(key_of(b, a, protocol)) == [expected]


def test_ends_with_equal_addresses_are_ordered_by_port_as_a_number():
    # 0x0100 is below 0x00ff in memory of a little-endian machine, not on the wire.
    low, high = ("10.0.0.1", 0x00FF), ("10.0.0.1", 0x0100)
    assert community_ids(key_of(low, high, 6)) == community_ids(key_of(high, low, 6))


def test_icmp_has_none_and_a_batch_keeps_its_order():
    ends = ("10.0.0.1", 0), ("10.0.0.2", 0)
    keys = [key_of(*ends, 1), key_of(*BASELINE[0][1:3], 6), key_of(*ends, 47)]
    icmp, tcp, gre = community_ids(np.concatenate(keys))
    assert icmp is None
    assert tcp == BASELINE[0][3]
    assert gre is not None and gre not in (tcp, icmp)


def test_seed_changes_the_id():
    key = key_of(*BASELINE[0][1:3], 6)
    assert community_ids(key, seed=1) == ["1:3V71V58M3Ksw/yuFALMcW0LAHvc="]
