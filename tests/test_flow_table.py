"""The kernel's flow table: who finds a flow in it, who gets a place, and who makes room."""

from concurrent.futures import ThreadPoolExecutor

import captures
import numpy as np
import pytest
from captures import ACK, RST, SYN, ether
from kernel_fixtures import LOADERS_MOSTLY, Bench, bench

from etcpipe.kernel import flow_table
from etcpipe.layout import ENUMS

pytestmark = pytest.mark.root

SOURCE, ANSWERING = "10.1.0.1", "10.2.0.1"
CLOSED = ENUMS["flow_status"].index("FLOW_CLOSED")


def segment(port: int, flags: int) -> bytes:
    return ether(captures.tcp(b"", flags, SOURCE, ANSWERING, port, 443))


def answer(port: int) -> bytes:
    return ether(captures.tcp(b"", ACK, ANSWERING, SOURCE, 443, port))


def ports(tap: Bench) -> set[int]:
    """Return the clients' ports of all flows; the client is end a."""
    return set(tap.flows()[0]["a_port"].astype(int).tolist())


def run(tap: Bench, *frames: bytes) -> None:
    for frame in frames:
        tap.run("tc_track", frame)


@pytest.mark.parametrize("loader", LOADERS_MOSTLY)
def test_each_flow_is_found_by_its_key(loader: str) -> None:
    with bench(loader, max_flows=4096, establish_timeout_s=600) as tap:
        n = 2000  # more than at home: sets of 32 have ten each
        run(tap, *(segment(port, SYN) for port in range(1, n + 1)))
        run(tap, *(answer(port) for port in range(1, n + 1)))
        keys, states = tap.flows()
        assert tap.counters()["FLOWS_CREATED"] == n == len(keys) == len(tap.table)
        assert states["packets"].tolist() == [[1, 1]] * n
        order = np.random.default_rng(1).permutation(n)
        assert (tap.table.find(keys[order])["flow_id"] == states["flow_id"][order]).all()


def test_a_key_that_is_not_there_is_zero() -> None:
    with bench("libbpf") as tap:
        run(tap, segment(1, SYN), segment(2, SYN))
        keys, states = tap.flows()
        tap.forget_flows()
        run(tap, segment(2, SYN))
        found = tap.table.find(keys)
        (left,) = tap.flows()[1]
        wanted = np.where(keys["a_port"].astype(int) == 2, left["flow_id"], 0)
        assert found["flow_id"].tolist() == wanted.tolist()
        assert left["flow_id"] not in states["flow_id"]  # an id is never used twice


def test_two_processors_put_each_flow_once() -> None:
    frames = [segment(port, SYN) for port in range(1, 1501)]
    with (
        bench("libbpf", max_flows=4096, establish_timeout_s=600) as tap,
        ThreadPoolExecutor(2) as pool,
    ):
        for done in [pool.submit(run, tap, *frames) for _ in range(2)]:
            done.result()
        keys, states = tap.flows()
        assert len(np.unique(keys)) == len(keys) == len(frames)
        assert tap.counters()["FLOWS_CREATED"] == len(frames)
        assert states["packets"].sum() == 2 * len(frames)


def churn(tap: Bench) -> tuple[list[int], list[int], int]:
    """Two processors begin, close and begin anew the same flows; then closed ones go meanwhile.

    Returns the ids of flows that were taken out, of those that are left, and how many began.
    """
    frames = [segment(port, flags) for port in range(1, 301) for flags in (SYN, RST, SYN)]
    before = tap.counters()
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(run, tap, *frames) for _ in range(2)]:
            done.result()
        between = tap.counters()
        assert between["FLOWS_CREATED"] - before["FLOWS_CREATED"] == 300
        assert between["FLOWS_RESTARTED"] - before["FLOWS_RESTARTED"] > 0
        assert len(tap.table) == 300

        ended: list[int] = []
        working = [pool.submit(run, tap, *frames) for _ in range(2)]
        while not all(done.done() for done in working):
            for window in tap.table.windows():
                _, last = window.take(window.states["status"] == CLOSED)
                ended += last["flow_id"].tolist()
    begun = tap.counters()["FLOWS_CREATED"] - before["FLOWS_CREATED"]
    return ended, tap.flows()[1]["flow_id"].tolist(), begun


def test_two_processors_count_no_flow_twice() -> None:
    with bench("libbpf", max_flows=4096) as tap:
        ended, left, begun = churn(tap)
    # who was taken out while its tuple began anew may be neither
    assert len({*ended, *left}) == len(ended) + len(left) <= begun


def test_who_was_answered_stays_whoever_else_comes() -> None:
    answered, closed = range(1, 17), range(17, 25)
    with bench("libbpf", max_flows=64) as tap:
        run(tap, *(segment(port, SYN) for port in (*answered, *closed)))
        run(tap, *(answer(port) for port in (*answered, *closed)))
        run(tap, *(segment(port, RST) for port in closed))
        run(tap, *(segment(port, SYN) for port in range(1000, 3000)))
        left = ports(tap)
        assert left >= set(answered)
        assert not left & set(closed)
        assert len(left) == 64


def test_the_longest_idle_makes_room() -> None:
    with bench("libbpf", max_flows=64) as tap:
        for port in range(1, 501):  # all of them answered
            run(tap, segment(port, SYN), answer(port))
        left = ports(tap)
        assert len(left) == 64
        assert min(left) > 500 - 3 * 64  # two sets, which do not get the same number of them


def test_a_place_that_was_taken_is_used_before_anybody_has_to_go() -> None:
    with bench("libbpf", max_flows=64) as tap:
        run(tap, *(segment(port, SYN) for port in range(1, 1001)))
        tap.forget_flows()
        run(tap, *(segment(port, SYN) for port in range(2001, 2017)))
        assert ports(tap) == set(range(2001, 2017))


def test_small_tables_have_no_spare_places() -> None:
    assert [flow_table.sets_for(n) for n in (64, 65, 512, 1024, 65536)] == [2, 3, 16, 48, 3072]
