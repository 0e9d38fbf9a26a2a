"""The cascade at work: who answers which flow, when, and exactly once."""

import itertools
import random

import numpy as np
import pytest
from cascades import CLASSES, MS, Script, depth_of, play, rows, runtime, said, serving

from etcpipe.cascade.runtime import Runtime
from etcpipe.cascade.states import STATE, FlowStates
from etcpipe.cascade.workers import Inline, Threads

ENDS = ("SURE", "LAST", "HELD", "QUEUE_FULL", "UNJUDGED")
SURE, UNSURE = (0, 0.95), (1, 0.5)


def moved(served):
    """The counters that are not zero, without their prefix."""
    found = served.counters.items()
    return {name.removeprefix("CASCADE_").lower(): n for name, n in found if n}


def test_a_sure_answer_leaves_at_the_first_packet():
    served = runtime(Script({0: SURE}), Script({0: UNSURE}))
    early = rows([7], packets=1, at_ns=5)
    served.add(early, 0, depth_of(early, 1))
    verdicts = served.poll(9, flush=True)
    assert said(verdicts) == {(7, "verdict"): ("chat", 0, 1, "model")}
    assert verdicts[0].depth.tolist() == [1]
    assert served.left().tolist() == [7]
    assert served.left().tolist() == []
    served.add(rows([7], packets=4))  # was on its way already
    assert served.drain(lambda: 10) == []
    assert moved(served) == {"sure": 1}


def test_an_unsure_flow_waits_for_more_packets():
    fast, middle, slow = Script({0: UNSURE}), Script({0: UNSURE}), Script({0: (2, 0.4)})
    served = runtime(fast, middle, slow)
    early = rows([7], packets=1)
    served.add(early, 0, depth_of(early, 1))
    assert served.poll(flush=True) == []
    assert served.waiting == [0, 0, 0]
    early = rows([7], packets=3)
    served.add(early, 0, depth_of(early, 3))
    assert served.poll(flush=True) == []
    served.add(rows([7], packets=4))
    verdicts = served.drain(lambda: 0)
    assert said(verdicts) == {(7, "verdict"): ("web", 2, 4, "model")}
    assert verdicts[0].models == ("m1@0", "m3@0", "m4@0")
    assert verdicts[0].runner_up.tolist() == [0]
    assert verdicts[0].infer_ns.tolist() == [3000]  # its share of three batches
    assert served.left().tolist() == []  # its row was the closing one
    assert (fast.batches, middle.batches, slow.batches) == ([[7]], [[7]], [[7]])
    assert moved(served) == {"last": 1}


def test_a_flow_that_ends_early_goes_through_the_stages_at_once():
    served = runtime(Script({0: UNSURE}), Script({0: UNSURE}), Script({0: (2, 0.4)}))
    early = rows([7])
    served.add(early, 0, depth_of(early, 1))
    served.poll(flush=True)
    served.add(rows([7], packets=2, reason="idle"))
    assert said(served.drain(lambda: 0)) == {(7, "verdict"): ("web", 2, 2, "timeout")}


def test_a_flow_too_short_for_the_first_depth_is_answered_too():
    served = runtime(Script({0: SURE}), Script({0: UNSURE}), depths=(3, 4))
    served.add(rows([7], packets=2, reason="end"))
    assert said(served.drain(lambda: 0)) == {(7, "verdict"): ("chat", 0, 2, "model")}


def test_a_slower_model_at_the_same_depth_sees_the_same_row():
    fast, slow = Script({1: SURE, 2: UNSURE}), Script({0: (2, 0.8)})
    served = runtime(fast, slow, depths=(3, 3))
    early = rows([1, 2], packets=3)
    served.add(early, 0, depth_of(early, 3))
    assert said(served.drain(lambda: 0)) == {
        (1, "verdict"): ("chat", 0, 3, "model"),
        (2, "verdict"): ("web", 1, 3, "model"),
    }
    assert slow.batches == [[2]]
    assert sorted(served.left().tolist()) == [1, 2]


def test_rows_wait_while_an_earlier_one_of_their_flow_is_judged():
    fast, slow = Script({1: SURE, 2: UNSURE}), Script({0: (2, 0.8)})
    served = runtime(fast, slow, depths=(1, 4), batch=2)
    first = rows([1, 2])
    served.add(first, 0, depth_of(first, 1))
    served.add(rows([1, 2], packets=4))
    assert served.waiting == [2, 0]
    assert said(served.drain(lambda: 0)) == {
        (1, "verdict"): ("chat", 0, 1, "model"),
        (2, "verdict"): ("web", 1, 4, "model"),
    }
    assert slow.batches == [[2]]


def test_a_row_of_a_later_depth_stands_in_for_one_that_was_lost():
    middle = Script({0: SURE})
    served = runtime(Script({0: UNSURE}), middle, Script({0: UNSURE}), depths=(1, 2, 4))
    for packets in (1, 3):  # the packet of rank 1 was lost: no row at depth 2
        early = rows([7], packets)
        served.add(early, 0, depth_of(early, packets))
        verdicts = served.poll(flush=True)
    assert said(verdicts) == {(7, "verdict"): ("chat", 1, 3, "model")}


def test_an_early_answer_is_told_and_revised_or_confirmed():
    fast = Script({1: (1, 0.5), 2: (1, 0.6), 3: SURE})
    served = runtime(fast, Script({1: (2, 0.8), 2: (1, 0.8)}), depths=(1, 4), early=True)
    early = rows([1, 2, 3])
    served.add(early, 0, depth_of(early, 1))
    assert said(served.poll(flush=True)) == {
        (1, "early"): ("mail", 0, 1, "model"),
        (2, "early"): ("mail", 0, 1, "model"),
        (3, "verdict"): ("chat", 0, 1, "model"),
    }
    served.add(rows([1, 2], packets=4))
    assert said(served.drain(lambda: 0)) == {
        (1, "revised"): ("web", 1, 4, "model"),
        (2, "verdict"): ("mail", 1, 4, "model"),
    }
    assert moved(served) == {"sure": 1, "last": 2, "early": 2, "revised": 1}


def test_only_the_first_answer_is_told_early():
    served = runtime(*[Script({0: UNSURE})] * 3, early=True)
    for packets in (1, 3):
        early = rows([1], packets)
        served.add(early, 0, depth_of(early, packets))
        assert len(served.poll(flush=True)) == (packets == 1)


def test_the_split_of_latency_adds_up_to_all_of_it():
    served = runtime(Script({0: SURE}, took_ns=300), Script({0: SURE}))
    early = rows([1, 2], packets=1, at_ns=40)
    served.add(early, 100, depth_of(early, 1))
    verdicts = served.poll(1000 + 1 * MS)[0]
    assert verdicts.wait_ns.tolist() == [40, 40]
    assert verdicts.infer_ns.tolist() == [300, 300]
    assert verdicts.queue_ns.tolist() == [1000 + MS - 340] * 2


def test_a_batch_starts_when_it_is_full_or_its_deadline_passed():
    script = Script({0: SURE})
    served = runtime(script, Script({0: SURE}), batch=3, deadline_ms=2.0)
    for flow in (1, 2, 3, 4):
        early = rows([flow])
        served.add(early, flow, depth_of(early, 1))
    served.poll(5)
    assert script.batches == [[1, 2, 3]]
    served.poll(4 + 2 * MS - 1)
    assert script.batches == [[1, 2, 3]]
    served.poll(4 + 2 * MS)
    assert script.batches == [[1, 2, 3], [4]]


def test_a_row_that_is_passed_on_waits_for_no_second_batch():
    served = runtime(*[Script({0: UNSURE})] * 2, Script({0: (2, 0.8)}), deadline_ms=2.0)
    served.add(rows([7], packets=2, reason="end"), 5)
    assert served.poll(4 * MS) == []  # twice the deadline, as nobody waits for it as much
    assert said(served.poll(4 * MS + 5)) == {(7, "verdict"): ("web", 2, 2, "model")}


def test_a_row_that_was_set_aside_waits_for_no_batch():
    served = runtime(Script({0: UNSURE}), Script({0: (2, 0.8)}), depths=(1, 4), deadline_ms=2.0)
    early = rows([7])
    served.add(early, 0, depth_of(early, 1))
    served.add(rows([7], packets=4), 1)
    assert served.poll(2 * MS - 1) == []
    assert said(served.poll(2 * MS)) == {(7, "verdict"): ("web", 1, 4, "model")}


@pytest.mark.parametrize("sheds", [False, True])
def test_live_a_batch_that_would_be_due_in_this_turn_is_begun_with_it(sheds):
    script = Script({0: SURE})
    stages = [serving(1, script, deadline_ms=1.0), serving(4, Script({0: SURE}), last=True)]
    work = itertools.count(0, 10 * MS)  # nanoseconds, each time that it is asked for
    served = Runtime(stages, Inline(sheds=sheds), clock=lambda: next(work))
    for flow, now in ((1, 0), (2, 50 * MS)):
        early = rows([flow])
        served.add(early, now, depth_of(early, 1))
        served.poll(now)
        assert script.batches == ([[1], [2]] if flow == 2 and sheds else [[1]] * (flow - 1))
        served.poll(now + 1 * MS)
        assert script.batches == [[1], [2]][:flow]


def test_without_shedding_rows_wait_for_room():
    script = Script({0: SURE})
    served = runtime(script, Script({0: SURE}), batch=2, queue=3)
    early = rows(list(range(1, 8)))
    served.add(early, 0, depth_of(early, 1))
    verdicts = served.drain(lambda: 0)
    assert len(said(verdicts)) == 7
    assert script.batches == [[1, 2], [3, 4], [5, 6], [7]]


def test_a_full_queue_keeps_the_fast_answer_of_those_who_are_surest():
    fast = Script({1: (1, 0.5), 2: (1, 0.8), 3: (1, 0.6), 4: (1, 0.7), 5: SURE})
    slow = Script({0: (2, 0.9)})
    stages = [serving(4, fast), serving(4, slow, last=True, batch=2, queue=2)]
    served = Runtime(stages, Inline(sheds=True))
    served.add(rows([1, 2, 3, 4, 5], packets=4))
    found = said(served.drain(lambda: 0))
    assert found == {
        (1, "verdict"): ("web", 1, 4, "model"),
        (3, "verdict"): ("web", 1, 4, "model"),
        (2, "verdict"): ("mail", 0, 4, "degraded"),
        (4, "verdict"): ("mail", 0, 4, "degraded"),
        (5, "verdict"): ("chat", 0, 4, "model"),
    }
    assert moved(served) == {"sure": 1, "last": 2, "queue_full": 2}


def test_where_the_first_stage_has_no_room_a_later_row_tries_again():
    script = Script({0: SURE})
    served = runtime(script, Script({0: SURE}), workers=Inline(sheds=True), batch=2, queue=2)
    early = rows([1, 2, 3])
    served.add(early, 0, depth_of(early, 1))
    served.add(rows([4], packets=2, reason="end"))
    verdicts = served.poll(flush=True)
    early = rows([3], packets=3)
    served.add(early, 0, depth_of(early, 3))
    verdicts += served.poll(flush=True)
    assert said(verdicts) == {
        (1, "verdict"): ("chat", 0, 1, "model"),
        (2, "verdict"): ("chat", 0, 1, "model"),
        (3, "verdict"): ("chat", 0, 3, "model"),
        (4, "verdict"): ("unknown", 0, 0, "degraded"),
    }
    assert moved(served) == {"sure": 3, "skipped": 1, "unjudged": 1}


def test_a_flow_that_lost_its_place_is_answered_by_its_closing_row():
    served = runtime(Script({0: UNSURE}), Script({0: (2, 0.8)}), depths=(1, 4), slots=8)
    for flow in (3, 11):  # the same place
        early = rows([flow])
        served.add(early, 0, depth_of(early, 1))
        served.poll(flush=True)
    served.add(rows([3], packets=2, reason="evicted"))
    served.add(rows([11], packets=4))
    assert said(served.drain(lambda: 0)) == {
        (3, "verdict"): ("web", 1, 2, "degraded"),
        (11, "verdict"): ("web", 1, 4, "model"),
    }
    assert moved(served) == {"last": 2, "forgotten": 1}


def test_an_early_answer_on_a_flow_that_was_forgotten_is_no_verdict():
    served = runtime(Script({0: SURE}), Script({0: SURE}), depths=(1, 4), slots=8)
    early = rows([3])
    served.add(early, 0, depth_of(early, 1))
    served.add(rows([3], packets=2, reason="evicted"))  # set aside: the early row is judged
    newer = rows([11])
    served.add(newer, 0, depth_of(newer, 1))
    assert said(served.drain(lambda: 0)) == {
        (3, "verdict"): ("chat", 0, 2, "degraded"),
        (11, "verdict"): ("chat", 0, 1, "model"),
    }


def test_state_of_a_flow_is_32_bytes_and_bounded():
    assert STATE.itemsize == 32
    served = runtime(Script({0: UNSURE}), Script({0: UNSURE}), slots=64, batch=1024)
    for first in range(1, 20_000, 1000):
        early = rows(range(first, first + 1000))
        served.add(early, 0, depth_of(early, 1))
        served.poll(flush=True)
    assert len(served._states._table) == 64
    assert served._parked == [] and served.waiting == [0, 0, 0][:2]
    assert isinstance(served._states, FlowStates)


def random_play(seed, workers, slots=64, **settings):
    """Flows of random lengths through three stages with random answers; all verdicts."""
    rng = random.Random(seed)
    says = {flow: (rng.randrange(3), rng.random()) for flow in range(1, 301)}
    scripts = [Script(says), Script({f: (n, (p + 0.4) % 1) for f, (n, p) in says.items()})]
    scripts.append(Script({0: (2, 0.3)}))
    served = runtime(*scripts, workers=workers, slots=slots, early=True, **settings)
    events = []
    for flow in range(1, 301):
        at, length = flow + rng.random(), rng.randrange(1, 5)
        for depth in (1, 3):
            if depth <= length:
                events.append((at + depth * rng.random() * 5, flow, depth, depth))
        events.append((at + 20 + rng.random(), flow, 0, length))
    verdicts = play(served, sorted(events)) + served.drain(lambda: 10**12)
    served.close()
    return said(verdicts), served


@pytest.mark.parametrize("slots", [8, 64, 1024])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shed", [False, True])
def test_every_flow_has_one_final_verdict(seed, slots, shed):
    limits = {"batch": 4, "queue": 4, "backlog_ms": 0.1} if shed else {"batch": 8}
    found, served = random_play(seed, Inline(sheds=shed), slots, **limits)
    final = [flow for flow, event in found if event != "early"]
    assert sorted(final) == list(range(1, 301))
    told = {flow for flow, event in found if event == "early"}
    assert {flow for flow, event in found if event == "revised"} <= told
    assert sum(served.counters[f"CASCADE_{why}"] for why in ENDS) == 300
    assert len(served._parked) == 0


def test_the_same_rows_give_the_same_verdicts_whatever_the_batches():
    found = [random_play(5, Inline(), batch=batch, slots=1024)[0] for batch in (1, 7, 64)]
    assert found[0] == found[1] == found[2]
    by_stage = np.bincount([stage for (_, event), (_, stage, _, _) in found[0].items()])
    assert (by_stage > 10).all()


def test_threads_answer_every_flow_once_and_the_same():
    inline, _ = random_play(9, Inline(), slots=1024, batch=8)
    threads, _ = random_play(9, Threads(2, inline={1}), slots=1024, batch=8)
    assert threads == inline


def test_what_a_model_raises_in_a_thread_reaches_the_caller():
    def broken(flows):
        raise RuntimeError("no")

    served = runtime(broken, Script({0: SURE}), workers=Threads(1))
    served.add(rows([1], packets=4))
    with pytest.raises(RuntimeError, match="no"):
        served.drain(lambda: 0)
    served.close()


def test_classes_are_those_of_the_stages():
    assert runtime(Script({0: SURE})).classes == CLASSES
