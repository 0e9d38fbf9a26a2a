"""Which flows go on: by the rule, and by how much a stage can take."""

import random

import numpy as np
import pytest
from cascades import MS, Script, depth_of, rows, said, serving

from etcpipe.cascade.escalation import Load, LowestShare, decider, least_sure
from etcpipe.cascade.runtime import Runtime
from etcpipe.cascade.stages import Rule, Stage
from etcpipe.cascade.workers import Inline


def probabilities(*values):
    return np.array(values, np.float32)


def test_a_threshold_for_all_and_one_a_class():
    label = np.array([0, 1, 1, -1])
    one = decider(Rule("threshold", 0.75), ("ssh", "web"))
    assert one(label, probabilities(0.75, 0.7, 0.8, 0.9)).tolist() == [True, False, True, True]
    each = decider(
        Rule("per_class", 0.75, {"web": 0.5, "unknown": 1.01}), ("ssh", "web", "unknown")
    )
    assert each(label, probabilities(0.7, 0.5, 0.4, 1.0)).tolist() == [False, True, False, False]


def test_a_target_passes_on_its_share_whatever_the_probabilities_are():
    rng = np.random.default_rng(1)
    sure = decider(Rule("target", 0.9, share=0.3), ("ssh", "web"))
    few = rng.random(50).astype(np.float32)
    assert (sure(np.zeros(50, int), few) == (few >= 0.9)).all()  # as it was fitted, at first
    for low, high in ((0.0, 1.0), (0.5, 0.6)):  # and then traffic changes
        passed = [
            (~sure(np.zeros(100, int), rng.uniform(low, high, 100))).mean() for _ in range(100)
        ]
        assert np.mean(passed[60:]) == pytest.approx(0.3, abs=0.03)


def test_the_lowest_share_by_hand():
    seen = LowestShare()
    seen.add(probabilities(*[0.25] * 30, *[0.75] * 10))
    assert 0.25 <= seen.below(0.5) <= 0.26
    assert 0.75 <= seen.below(0.9) <= 0.76
    assert LowestShare().below(0.5) <= 1


def test_the_least_sure_are_taken():
    among = np.array([True, True, False, True])
    chosen = least_sure(probabilities(0.9, 0.5, 0.1, 0.6), among, 2)
    assert chosen.tolist() == [False, True, False, True]


def loaded(done=1000, took_ns=1000 * MS, **settings):
    """The load of a stage that did so many rows in so much time: one a millisecond."""
    load = Load(Stage(1, "m", **{"batch": 10, "queue": 1000, "backlog_ms": 100.0, **settings}))
    load.finished(done, took_ns)
    return load


def test_a_stage_that_has_done_nothing_takes_all():
    load = Load(Stage(1, "m", batch=10))
    assert load.share(500, 100, MS) == 1.0
    assert load.room(500, 300) == 300


def test_one_batch_is_always_taken():
    assert loaded().share(0, 10, MS) == 1.0
    assert loaded(done=10, took_ns=10**12).room(0, 1000) == 10


def test_the_share_follows_from_speed_arrivals_and_backlog():
    load = loaded()
    # 100 rows in the window of 100 ms, at 1 row a millisecond: 0.9 of what it can do
    assert load.share(60, 100, 0) == pytest.approx(0.9 * (1 - 0.5))
    # 100 ms later 100 / e of them still count
    assert load.share(0, 100, 100 * MS) == pytest.approx(0.9 / (1 + 1 / np.e))
    assert load.share(110, 100, 101 * MS) == 0.0


def test_small_batches_say_nothing_of_speed():
    load = Load(Stage(1, "m", batch=10))
    load.finished(4, 10**12)
    assert load.speed == 0
    load.finished(5, 5 * MS)
    assert load.speed == pytest.approx(1 / MS)


def test_time_bounds_what_may_wait():
    assert loaded().room(waiting=60, room=1000) == 40
    assert loaded().room(waiting=60, room=7) == 7
    assert loaded().room(waiting=160, room=1000) == 0


def play(rate_per_s, slow_us, seconds=0.4, budget_ms=10.0, seed=1):
    """Open-loop arrivals through a fast stage and a slow one that has a worker of its own."""
    rng = random.Random(seed)
    fast = Script({flow: (0, rng.random()) for flow in range(1, int(rate_per_s * seconds) + 1)})
    fast.took_ns = 1000
    stages = [
        serving(1, fast, sure=0.5, batch=64),
        serving(
            1, Script({0: (1, 0.9)}, slow_us * 1000), last=True, batch=32, backlog_ms=budget_ms
        ),
    ]
    served = Runtime(stages, SlowWorker())
    verdicts, done_ns, now = [], {}, 0
    for flow in range(1, int(rate_per_s * seconds) + 1):
        now += int(rng.expovariate(rate_per_s) * 1e9)
        served._workers.now_ns = now
        row = rows([flow], 1, now)
        served.add(row, now, depth_of(row, 1))
        for batch in served.poll(now):
            verdicts.append(batch)
            done_ns |= dict.fromkeys(batch.flows.flow_id.tolist(), now)
    verdicts += served.drain(lambda: now)
    latency = np.concatenate([batch.queue_ns + batch.infer_ns for batch in verdicts]) / MS
    return said(verdicts), served, latency


class SlowWorker(Inline):
    """The first stage at once, the second one as long as its answers say it takes."""

    def __init__(self):
        super().__init__(sheds=True)
        self.now_ns = 0
        self._busy = []

    def has_room(self, stage):
        return stage == 0 or not self._busy

    def submit(self, stage, rows, judge):
        super().submit(stage, rows, judge)
        if stage:
            job = self._done.pop()
            self._busy.append((self.now_ns + job.answers.took_ns, job))

    def wait(self):
        self.now_ns = max((at for at, _ in self._busy), default=self.now_ns)

    def done(self):
        ended = [job for at, job in self._busy if at <= self.now_ns]
        self._busy = [one for one in self._busy if one[0] > self.now_ns]
        return super().done() + ended


def test_below_capacity_all_unsure_flows_go_on():
    found, served, latency = play(rate_per_s=1000, slow_us=500)  # a quarter of its time
    assert len(found) == 400
    assert served.counters["CASCADE_HELD"] == served.counters["CASCADE_QUEUE_FULL"] == 0
    assert served.counters["CASCADE_LAST"] == pytest.approx(200, abs=40)
    assert np.percentile(latency, 99) < 40


@pytest.mark.parametrize("rate", [6000, 12_000])
def test_overload_is_answered_in_time_and_by_the_least_sure_first(rate):
    found, served, latency = play(rate, slow_us=500)  # unsure flows alone are 1.5, 3 times too many
    assert len(found) == 0.4 * rate
    counters = served.counters
    assert counters["CASCADE_HELD"] > 0
    assert 480 < counters["CASCADE_LAST"] < 880  # 800 are possible in this time
    assert np.percentile(latency, 99) < 60
    degraded = [flow for (flow, _), one in found.items() if one[3] == "degraded"]
    slow = [flow for (flow, _), one in found.items() if one[1] == 1]
    says = served._stages[0].judge.says
    mean = {name: np.mean([says[flow][1] for flow in flows]) for name, flows in
            (("degraded", degraded), ("slow", slow))}  # fmt: skip
    assert mean["slow"] < mean["degraded"] - 0.1
