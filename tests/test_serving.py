"""Flows come again as asked, each is answered once, and the figures are those of the answers."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from labelled import write_recordings

from etcpipe.batch import FlowBatch
from etcpipe.cascade.serving import Serving
from etcpipe.cascade.stages import Rule, Stage
from etcpipe.cli.command import cli
from etcpipe.errors import EtcpipeError, UsageError
from etcpipe.layout import FLOW_KEY, PACKET_FIELDS, READY_REASONS
from etcpipe.model import Answers
from etcpipe.serving import arrivals, baselines, bench, replay, report
from etcpipe.serving.pace import Pace
from etcpipe.serving.recorded import Recorded, read

CLASSES = ("even", "odd")
DEPTHS = (1, 3)
MS = 1_000_000


def recorded(flows=40, short=4):
    """Flows of two classes; every `short`-th one ends after a packet, at 50 ms.

    The first packet's size says the class, but of every second pair of flows nothing.
    """
    packets = np.zeros((flows, 3), PACKET_FIELDS)
    is_short = np.arange(flows) % short == 0
    packets["present"][:, 0] = 1
    packets["present"][~is_short, 1:] = 1
    label = np.arange(flows) % 2
    tells = np.arange(flows) // 2 % 2 == 0
    packets["ip_len"][:, 0] = np.where(tells, 100 + label, 0)
    packets["ip_len"][:, 2] = np.where(is_short, 0, 100 + label)
    reason = np.where(is_short, READY_REASONS.index("idle"), READY_REASONS.index("depth"))
    batch = FlowBatch(
        flow_id=np.zeros(flows, np.uint64),
        key=np.zeros(flows, FLOW_KEY),
        initiator=np.zeros(flows, np.uint8),
        vlan=np.zeros(flows, np.uint16),
        ifindex=np.zeros(flows, np.uint32),
        packets=packets,
        raw=np.zeros((flows, 3, 0), np.uint8),
        lost=np.zeros(flows, np.uint16),
        reason=reason.astype(np.uint8),
        ready_ns=np.zeros(flows, np.uint64),
    )
    ready = np.column_stack([np.zeros(flows), np.where(is_short, 0.05, 0.02)])
    return Recorded(
        batch,
        label,
        np.arange(flows) // 4,
        DEPTHS,
        ready,
        packets["present"].sum(axis=1).astype(int),
    )


def judge(flows):
    """Say the class that the newest size tells, surely; else the first class, unsurely."""
    sizes = flows.packets["ip_len"]
    newest = np.where(sizes[:, 2] > 0, sizes[:, 2], sizes[:, 0]).astype(int)
    n, tells = len(flows), newest > 0
    return Answers(
        np.where(tells, newest - 100, 0).astype(np.int16),
        np.where(tells, 0.99, 0.5).astype(np.float32),
        np.zeros(n, np.int16),
        flows.packets["present"].sum(axis=1).astype(np.uint16),
        1000,
    )


def slow_judge(flows):
    """The same, and 200 us of work a flow."""
    end = time.thread_time() + 200e-6 * len(flows)
    while time.thread_time() < end:
        pass
    return judge(flows)


def stages(second=judge, **settings):
    first = Stage(1, "first", rule=Rule(probability=0.9), **settings)
    return [
        Serving(first, judge, CLASSES, "first@1", latency_ms=60_000),
        Serving(Stage(3, "second", **settings), second, CLASSES, "second@1", latency_ms=60_000),
    ]


def start(flows, rate=1000.0):
    return arrivals.poisson(flows, rate, seed=1)


@pytest.mark.parametrize("process", bench.PROCESSES.values())
def test_arrivals_have_their_mean_rate(process):
    at = process(50_000, 1000.0, seed=1)
    assert (np.diff(at) >= 0).all()
    assert 50_000 / at[-1] == pytest.approx(1000, rel=0.05)


def test_bursts_are_burstier():
    def variance(at):
        counts = np.histogram(at, np.arange(0, at[-1], 0.01))[0]
        return counts.var() / counts.mean()

    assert variance(arrivals.poisson(50_000, 1000.0, seed=1)) == pytest.approx(1, abs=0.1)
    assert variance(arrivals.bursty(50_000, 1000.0, seed=1)) > 3


def test_a_schedule_has_the_rows_that_were_recorded():
    flows = recorded()
    made = arrivals.schedule(flows, np.arange(40) * 1.0)
    early, closing = made.rows
    assert (early.depth, closing.depth) == (1, 0)
    assert len(early.flows) == len(closing.flows) == 40
    assert sorted(made.base) == list(range(40))
    waited = closing.at_ns - made.start_ns[closing.instance]
    is_short = made.base[closing.instance] % 4 == 0
    assert set(waited[is_short]) == {50_000_000} and set(waited[~is_short]) == {20_000_000}
    assert (early.flows.packets["present"].sum(axis=1) == 1).all()
    assert (closing.flows.ready_ns == closing.at_ns).all()
    assert (closing.flows.flow_id == closing.instance + 1).all()


def test_rows_after_the_longest_wait_come_at_its_end():
    flows = recorded()
    made = arrivals.schedule(flows, start(40), longest_wait_s=0.03)
    waited = made.rows[-1].at_ns - made.start_ns[made.rows[-1].instance]
    is_short = made.base[made.rows[-1].instance] % 4 == 0
    assert set(waited[is_short]) == {30_000_000} and set(waited[~is_short]) == {20_000_000}


def test_flows_shorter_than_a_depth_have_no_row_there():
    made = arrivals.schedule(recorded(), start(40), depths=(3,))
    assert len(made.rows) == 1 and made.rows[0].depth == 0
    two = replace(recorded(), depths=(2, 3), ready_s=np.zeros((40, 2)))
    early, closing = arrivals.schedule(two, start(40)).rows
    assert (len(early.flows), len(closing.flows)) == (30, 40)


def test_each_flow_is_answered_at_the_stage_that_is_sure():
    flows = recorded(400)
    made = arrivals.schedule(flows, start(400))
    found = replay.replay(made, stages())
    tells = made.base // 2 % 2 == 0
    assert (found.stage == np.where(tells, 0, 1)).all()
    waited_ms = (found.row_ns - made.start_ns) / 1e6
    is_short = made.base % 4 == 0
    assert set(waited_ms[tells]) == {0.0}
    assert waited_ms[~tells & ~is_short] == pytest.approx(20, abs=1e-5)
    assert waited_ms[~tells & is_short] == pytest.approx(50, abs=1e-5)
    right = found.said == flows.label[made.base]
    assert right[tells | ~is_short].all()
    assert (found.answered_ns > found.row_ns).all()
    assert not found.degraded.any()
    assert (found.timed_out == (~tells & is_short)).all()


def test_overload_leaves_no_flow_unanswered_and_is_bounded():
    made = arrivals.schedule(recorded(400), start(2000, rate=20_000))  # 10,000/s is too much
    found = replay.replay(made, stages(slow_judge, queue=256, batch=32))
    assert (found.stage >= 0).all()
    assert 0.1 < found.degraded.mean() < 0.6
    serving_ms = (found.answered_ns - found.row_ns) / 1e6
    assert np.percentile(serving_ms, 99) < 100


def test_a_flow_answered_twice_is_a_bug():
    made = arrivals.schedule(recorded(40), start(40))
    outcome = replay.Outcome.of(40)
    verdicts = []

    class Watching(replay.Runtime):
        def poll(self, *args, **kwargs):
            found = super().poll(*args, **kwargs)
            verdicts.extend(found)
            return found

    runtime = Watching(stages())
    runtime.add(made.rows[1].flows)
    runtime.drain(lambda: 0)
    outcome.take(verdicts[0], 0)
    with pytest.raises(EtcpipeError, match="twice"):
        outcome.take(verdicts[0], 0)


def test_the_clock_skips_what_is_idle():
    clock = replay.SkippingClock()
    clock.skip_to(3_600_000_000_000)
    assert 3600 <= clock.now_ns() / 1e9 < 3601
    clock.skip_to(1)
    assert clock.now_ns() / 1e9 >= 3600
    before_ns = clock.now_ns()
    with clock.stopped() as now_ns:
        assert now_ns >= before_ns
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
    assert clock.now_ns() - now_ns < 10_000_000


def test_full_speed_turns_nothing_away():
    made = arrivals.schedule(recorded(400), start(4000, rate=1e6))
    found = replay.at_full_speed(made, stages())
    assert not found.degraded.any() and found.busy_s > 0
    assert (found.stage >= 0).all()


def test_capacity_is_the_rate_at_which_next_to_nobody_is_served_worse():
    flows, served = recorded(400), stages(slow_judge)  # half of them: 10,000/s is too much

    def comes(rate):
        return arrivals.schedule(flows, start(max(int(0.2 * rate), 100), rate=rate))

    found = replay.sustained(comes, served, most=40_000.0)
    assert 0 < found < 40_000
    assert replay.replay(comes(found / 2), served).degraded.mean() <= replay.DEGRADED_MOST
    assert replay.replay(comes(3 * found), served).degraded.mean() > replay.DEGRADED_MOST


def test_random_escalation_passes_on_as_many_and_is_worse():
    flows = recorded(400)
    made = arrivals.schedule(flows, start(2000))
    ours = replay.replay(made, stages())
    system = baselines.random_escalation(stages(), ours, seed=1)
    found = replay.replay(made, system.stages)
    assert (found.stage == 0).mean() == pytest.approx((ours.stage == 0).mean(), abs=0.05)
    label = flows.label[made.base]
    assert (found.said == label).mean() < (ours.said == label).mean() - 0.05


def test_an_oracle_passes_on_only_what_a_later_stage_has_right():
    flows = recorded(400)
    made = arrivals.schedule(flows, start(400))
    found = replay.replay(made, baselines.oracle(stages(), flows, made).stages)
    base, tells, is_short = made.base, made.base // 2 % 2 == 0, made.base % 4 == 0
    needs_more = ~tells & (base % 2 == 1) & ~is_short  # the guess "even" is right for the others
    assert (found.stage == np.where(needs_more, 1, 0)).all()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A cascade file, and other recordings of the same kinds."""
    pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")
    learnt, others = (tmp_path_factory.mktemp(name) for name in ("learnt", "others"))
    args = ["cascade", "fit", "lightgbm@1,3", str(write_recordings(learnt)), "--target", "early"]
    done = CliRunner().invoke(cli, [*args, "-o", str(learnt / "c.toml")], catch_exceptions=False)
    assert done.exit_code == 0
    return learnt / "c.toml", write_recordings(others, first_seed=10)


def test_the_bench_on_the_command_line(fitted, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="plots need etcpipe[plot]")
    monkeypatch.setattr(bench, "FULL_SPEED_FLOWS", 500)
    monkeypatch.setattr(bench, "CAPACITY_S", 0.02)
    cascade, others = fitted
    args = ["-j", "serve-bench", str(cascade), str(others), "--loads", "0.5,1.5"]
    args += ["--seconds", "0.1", "--plot", str(tmp_path)]
    done = CliRunner().invoke(cli, args, catch_exceptions=False)
    found = json.loads(done.output)
    assert found["flows"] == 120
    systems = {one["system"]: one for one in found["recorded"]}
    assert set(systems) == set(report.LABELS)
    assert systems["cascade"]["macro_f1"] > 0.95
    loaded = [(one["arrivals"], one["load"]) for one in found["loaded"]]
    assert loaded == [("poisson", 0.5), ("poisson", 1.5), ("bursty", 0.5), ("bursty", 1.5)]
    for one in found["loaded"]:
        shares = one["shares"]
        assert shares["early"] + shares["escalated"] + shares["degraded"] >= 1 - 1e-9
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.png")}
    assert set(sizes) == {"latency.png", "split.png", "load.png", "shares.png"}
    assert min(sizes.values()) > 5000


def test_goals_are_judged_by_the_figures():
    def run(system, latency_s, f1, process="recorded", load=0.0):
        wait = np.full(100, latency_s)
        none = np.zeros(100)
        shares = dict.fromkeys(("early", "escalated", "degraded", "timed_out"), 0.0)
        said = np.zeros(100, int)
        return bench.Run(
            *(system, process, load, 1.0, said, wait, none, none),
            *(f1, f1, [f1], [1.0], shares, 1.0, {}),
        )

    made = bench.Report(100, ("m@1",), (1,), {"cascade": [31_000.0]}, {"cascade": 40_000.0})
    made.lost = (0.005, -0.01, 0.02)
    made.recorded = [run("cascade", 0.01, 0.80), run("wait", 1.0, 0.805), run("oracle", 0.01, 0.9)]
    late = replace(run("cascade", 0.0, 0.8, "poisson", 0.8), queue_s=np.full(100, 0.006))
    made.loaded = [late]
    assert [met for *_, met in report.goals(made)] == [True, True, True, True, False]
    assert "| not met" in report.as_markdown(made)


def test_flows_of_other_classes_are_left_out(tmp_path):
    from etcpipe import dataset as datasets

    recordings = datasets.find_recordings(write_recordings(tmp_path))
    found = read(recordings, ("large", "x"), (1, 3), datasets.Input(), ["stats"], "strict")
    assert len(found) == 60 and set(found.label) == {0}
    with pytest.raises(UsageError, match="class"):
        read(recordings, ("x",), (1, 3), datasets.Input(), ["stats"], "strict")


def test_flows_that_a_slow_moment_touches_are_not_calm():
    pace = Pace()
    pace.at_ns = [0, 10 * MS, 20 * MS]
    pace.took_ns = [100, 151, 149]  # usually 100: the second one was too long
    begin = np.array([2, 8, 8, 11, 12]) * MS
    until = np.array([8, 9, 30, 30, 30]) * MS
    assert pace.is_calm(begin, until, 100).tolist() == [True, False, False, False, True]


def test_the_machine_is_looked_at_once_a_millisecond_of_any_clock():
    pace = Pace()
    for at_ns in (5, MS, MS + 5, 3 * MS, 2, 3):
        pace.look(at_ns)
    assert pace.at_ns == [5, MS + 5, 3 * MS, 2]
    assert len(pace.took_ns) == 4 and pace.usual_ns > 0


def test_a_replay_looks_at_the_machine_while_the_clock_stands():
    pace = Pace()
    made = arrivals.schedule(recorded(40), start(40))
    assert (replay.replay(made, stages(), pace).stage >= 0).all()
    assert len(pace.at_ns) > 10 and pace.at_ns == sorted(pace.at_ns)
