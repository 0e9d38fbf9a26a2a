"""The steps of rows in C: those of the definition, row by row, on random flows."""

import numpy as np
import pytest
from cascades import MS, N, Script, rows, serving

from etcpipe.batch import FlowBatch
from etcpipe.cascade.pool import RowPool
from etcpipe.cascade.runtime import Runtime
from etcpipe.cascade.states import SAID, STATE, VERDICT, FlowStates
from etcpipe.cascade.steps import Steps
from etcpipe.cascade.steps_native import NativeSteps
from etcpipe.cascade.workers import Inline
from etcpipe.layout import READY_REASONS

FLOWS, DEPTHS = 300, (1, 3, 4)


def says(rng, lowest):
    """What a model says of each flow."""
    return {
        flow: (int(rng.integers(-1, 3)), lowest + (1 - lowest) * rng.random())
        for flow in range(FLOWS + 1)
    }


def events(rng) -> list[tuple[int, FlowBatch, np.ndarray | None]]:
    """Batches of early rows and of closing ones, several of a flow in some of them."""
    begins = np.sort(rng.integers(0, 40, FLOWS))
    length = rng.integers(0, N + 1, FLOWS)
    found = []
    for at in range(60):
        early = [
            (flow + 1, depth)
            for flow in np.flatnonzero((begins <= at) & (at < begins + 6)).tolist()
            for depth in (1, 2, 3)
            if depth <= length[flow] and rng.random() < 0.25
        ]
        rng.shuffle(early)
        found.append((at, random_rows(rng, [f for f, _ in early], [d for _, d in early], at)))
        over = np.flatnonzero(begins + 8 == at)
        found.append((at, (*random_rows(rng, over + 1, length[over], at)[:1], None)))
    return [(at * MS, *one) for at, one in found]


def random_rows(rng, flow_ids, packets, at) -> tuple[FlowBatch, np.ndarray]:
    depth = np.asarray(packets, np.uint8)
    flows = rows(np.asarray(flow_ids, np.int64), 0, at * MS)
    flows.packets["present"] = np.arange(N) < depth[:, None]
    flows.packets["present"][:, 0] &= rng.random(len(depth)) < 0.9  # the first one was lost
    flows.packets["timestamp_ns"] = rng.integers(0, 60 * MS, flows.packets.shape)
    flows.reason[:] = rng.integers(0, len(READY_REASONS), len(depth))
    return flows, depth


def played(steps, seed, sheds, slots, early) -> tuple[list[bytes], list]:
    """Everything that a runtime gives for random flows: verdicts as bytes; counters, who left."""
    rng = np.random.default_rng(seed)
    scripts = [Script(says(rng, 0.1 * i), took_ns=3000) for i in range(3)]
    limits = {"batch": 4, "queue": 6, "backlog_ms": 0.1} if sheds else {"batch": 16}
    stages = [
        serving(depth, script, sure=0.7, last=i == 2, **limits)
        for i, (depth, script) in enumerate(zip(DEPTHS, scripts, strict=True))
    ]
    # work takes what the scripts say: it decides who is turned away
    how = {"early": early, "slots": slots, "steps": steps, "clock": lambda: 0}
    served = Runtime(stages, Inline(sheds=sheds), **how)
    verdicts, rest = [], []
    for now_ns, flows, depth in events(rng):
        served.add(flows, now_ns, depth)
        verdicts += served.poll(now_ns)
        rest.append((served.left().tolist(), served.waiting, len(served._parked)))
    verdicts += served.drain(lambda: 100 * MS)
    rest.append((served.counters, served.left().tolist()))
    return [as_bytes(one) for one in verdicts], rest


def as_bytes(verdicts) -> bytes:
    columns = {**vars(verdicts.flows), **vars(verdicts)}
    return b"".join(one.tobytes() for one in columns.values() if isinstance(one, np.ndarray))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("slots", [16, 1024])
@pytest.mark.parametrize(("sheds", "early"), [(False, True), (True, True), (True, False)])
def test_steps_in_c_are_the_defined_ones(seed, slots, sheds, early):
    verdicts, rest = played(NativeSteps, seed, sheds, slots, early)
    expected, expected_rest = played(Steps, seed, sheds, slots, early)
    assert rest == expected_rest
    assert verdicts == expected
    counters = rest[-1][0]
    assert counters["CASCADE_SURE"] > 50 and counters["CASCADE_LAST"] > 5
    assert (counters["CASCADE_HELD"] + counters["CASCADE_QUEUE_FULL"] > 0) == sheds
    assert (counters["CASCADE_FORGOTTEN"] > 0) == (slots == 16)
    assert (counters["CASCADE_EARLY"] > 0) == early


def test_records_in_c_are_those_of_numpy():
    assert STATE.itemsize == 32
    assert (STATE["told"], STATE["probability"]) == (np.int16, np.float32)
    assert SAID["label"] == VERDICT["runner_up"] == np.int16


def test_rows_of_another_shape_are_refused():
    pool = RowPool(rows([1]))
    flows = rows([1, 2])
    with pytest.raises(ValueError, match="rows of"):
        pool.put(short(flows), 0)


def short(flows: FlowBatch) -> FlowBatch:
    """The same rows, without their last rank."""
    columns = {**vars(flows), "packets": flows.packets[:, :-1]}
    return FlowBatch(**columns)


def test_a_flow_is_in_one_queue_though_several_of_its_rows_come_at_once():
    for make in (Steps, NativeSteps):
        flows = rows([7, 7, 8, 7], 3)
        pool, states = RowPool(flows), FlowStates(16)
        steps = make(pool, states, DEPTHS, False)
        places = pool.put(flows, np.array([1, 2, 1, 3], np.uint8))
        placed = steps.place(places, 10)
        assert [(stage, over, p.tolist()) for stage, over, p in placed.queued] == [
            (0, False, places[[0, 2]].tolist())
        ]
        assert placed.aside.tolist() == places[[1, 3]].tolist()
        assert states.is_awaited(np.array([7, 8, 9], np.uint64)).tolist() == [True, True, False]
