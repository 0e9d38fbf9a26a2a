"""Turns are as long as the cascade's latency_ms allows, by a clock that models the processor."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from cascades import MS, Script, depth_of, rows, runtime
from test_serving import judge, recorded, stages

from etcpipe.cascade.turns import ROWS_LEAST, BatchCost, TurnBudget
from etcpipe.cascade.workers import Inline
from etcpipe.serving import arrivals, bench
from etcpipe.serving.replay import replay

FIXED_NS, ROW_NS = 300_000, 10_000


def told(*batches):
    cost = BatchCost()
    for size, took_ns in batches:
        cost.add(size, took_ns)
    return cost


LINE = [(20, 500_000), (100, 1_300_000)]


def test_a_batch_is_a_line_of_its_rows():
    cost = told(*LINE, (60, 900_000))
    assert (cost.row_ns, cost.fixed_ns) == pytest.approx((10_000, 300_000))


def test_no_line_is_seen_in_one_size():
    assert told((20, 500_000), (20, 700_000)).row_ns == 0


def test_batches_of_one_size_move_the_line():
    slower = told(*LINE, *[(60, 1_800_000)] * 2000)
    assert slower.row_ns == pytest.approx(10_000, rel=0.05)
    assert slower.fixed_ns + 60 * slower.row_ns == pytest.approx(1_800_000, rel=0.01)
    faster = told(*LINE, *[(60, 300_000)] * 2000)
    assert faster.row_ns == pytest.approx(5_000, rel=0.01)


def test_a_row_takes_neither_less_than_a_part_nor_more_than_all():
    assert told((100, 2_000_000), (200, 1_000_000)).row_ns > 0
    assert told((20, 100_000), (100, 10_000_000)).fixed_ns == 0


def test_a_slow_moment_is_soon_forgotten():
    cost = told(*LINE * 5, (60, 900_000), (60, 500 * MS))
    assert cost.fixed_ns + 60 * cost.row_ns == pytest.approx(900_000 * 13 / 12, rel=0.01)


def budget(latency_ms, fixed_ns=FIXED_NS, row_ns=ROW_NS):
    """A budget of two stages: a first turn, then such with batches of 20 and of 100 rows."""
    made = TurnBudget(latency_ms, 2)
    for size in (1, 20, 100):
        for _ in range(2):
            made.judged(size)
        made.turned(2 * (fixed_ns + size * row_ns) if size > 1 else 100 * MS)
    return made


def test_two_turns_fit_into_the_latency():
    assert TurnBudget(5, 2).rows == inf
    assert budget(5).rows == pytest.approx((0.9 * 2_500_000 - 600_000) / 10_000)


def test_no_more_than_half_of_a_turn_is_spent_on_beginning():
    assert budget(0.5).rows == pytest.approx(60)  # 1.2 ms, not the 0.225 that are left
    assert budget(0.1, fixed_ns=0).rows == ROWS_LEAST  # it goes on, whatever a row takes


def test_rows_that_wait_and_rows_that_were_judged_take_room():
    made = budget(5)
    assert made.room(waiting=0, room=1000) == 165
    assert made.room(waiting=0, room=7) == 7
    made.judged(100)
    assert made.room(waiting=60, room=1000) == 5
    assert made.room(waiting=600, room=1000) == 0
    made.turned(FIXED_NS + 100 * ROW_NS)
    assert made.room(waiting=60, room=1000) == pytest.approx(105, abs=1)


class Work:
    """A processor that takes time for batches only."""

    def __init__(self):
        self.ns = 0

    def __call__(self):
        return self.ns

    def judge(self, flows):
        self.ns += FIXED_NS + len(flows) * ROW_NS
        return judge(flows)


class Unsteady(Work):
    """A processor on which one batch of twenty takes 1.5 ms more."""

    def __init__(self):
        super().__init__()
        self._chance = np.random.default_rng(1)

    def judge(self, flows):
        self.ns += 1_500_000 * int(self._chance.random() < 0.05)
        return super().judge(flows)


def served(process, rate, latency_ms, work=None):
    """(flows,) ms of queue and inference, and the share of lesser answers: 0.2 s of arrivals."""
    work, flows = work or Work(), recorded(400)
    ours = [
        replace(one, judge=work.judge, latency_ms=latency_ms, stage=replace(one.stage, packets=n))
        for one, n in zip(stages(), (1, 3), strict=True)
    ]
    made = arrivals.schedule(flows, bench.PROCESSES[process](int(0.2 * rate), rate, seed=1))
    found = replay(made, ours, work=work)
    assert (found.stage >= 0).all()
    return (found.answered_ns - found.row_ns) / MS, found.degraded.mean()


# Half of the flows are judged twice: 15 us a flow, and 600 us a turn that has both stages.
@pytest.mark.parametrize("rate", [10_000, 25_000, 40_000])
@pytest.mark.parametrize("process", ["poisson", "bursty"])
def test_answers_come_in_time_whatever_comes(process, rate):
    took_ms, _ = served(process, rate, latency_ms=5)
    assert np.percentile(took_ms, 99) < 5


@pytest.mark.parametrize(("process", "rate"), [("poisson", 45_000), ("bursty", 30_000)])
def test_answers_come_in_time_on_a_processor_that_is_not_steady(process, rate):
    took_ms, _ = served(process, rate, latency_ms=5, work=Unsteady())
    assert np.percentile(took_ms, 99) < 5


def test_late_rows_shorten_turns_and_others_lengthen_them_again():
    made = budget(5)
    planned = made.planned_ns
    for took_ns in (2_000_000, 4_000_000):  # at most 6 ms for a row: half of them waited above 5
        made.judged(100)
        made.turned(took_ns)
    assert made.planned_ns == pytest.approx(
        planned * np.exp(-0.004 * 100 * (0.5 - 0.0025)), rel=0.01
    )
    for _ in range(2000):
        made.judged(100)
        made.turned(2_000_000)
    assert made.planned_ns == planned == 0.9 * 2_500_000


def test_nobody_is_turned_away_while_there_is_time():
    assert served("poisson", 25_000, latency_ms=5)[1] == 0


def test_more_time_is_more_best_answers_later():
    hurried, lesser = served("bursty", 40_000, latency_ms=5)
    calm, fewer = served("bursty", 40_000, latency_ms=20)
    assert fewer < lesser
    assert np.percentile(hurried, 99) < np.percentile(calm, 99) < 20


def test_first_rows_that_there_is_no_time_for_are_counted_and_answered_later():
    script = Script({0: (0, 0.95)})
    served = runtime(script, Script({0: (0, 0.95)}), workers=Inline(sheds=True), batch=2, queue=2)
    both = rows([1, 2, 3, 4, 9])
    served.add(both, 0, np.array([1, 1, 1, 1, 3], np.uint8))
    assert served.counters["CASCADE_SKIPPED"] == 3  # flow 9 has its first row at three packets
    again = rows([3, 4, 9], packets=4)
    verdicts = served.poll(flush=True)
    served.add(again, 0, depth_of(again, 3))
    verdicts += served.poll(flush=True)
    answered = sorted(i for batch in verdicts for i in batch.flows.flow_id.tolist())
    assert answered == [1, 2, 3, 4]
    served.add(rows([9], packets=4))
    assert [batch.flows.flow_id.tolist() for batch in served.drain(lambda: 0)] == [[9]]
