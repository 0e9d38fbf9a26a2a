"""A cascade that sees other rows takes one's place: no flow loses a packet or is answered twice."""

# ruff: noqa: F401, F811  (wire is a fixture, imported and then taken as an argument)

from pathlib import Path
from random import Random

import numpy as np
import pytest
from kernel_fixtures import Wire, wire

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.capture import Capture
from etcpipe.cascade.lanes import Lanes
from etcpipe.cascade.stages import Cascade, Rule, Stage
from etcpipe.errors import UsageError
from etcpipe.gpu.regroup import Regroup
from etcpipe.live import attach as live
from etcpipe.model import load as load_model
from etcpipe.verdict import VerdictBatch

pytest.importorskip("onnx", reason="making models needs etcpipe[train]")
from test_regroup_agree import random_packets
from test_settled_live import NEVER_IDLE_S, send
from test_stage0_beside import BETWEEN, LARGE, LAST, SMALL, Answers, packet, write_raw
from test_stage0_live import write_trees

LAB = sorted((Path(__file__).parent / "data/lab").glob("*.pcap"))
CPUS = np.uint64(2)


class Model:
    """What Lanes asks of a cascade."""

    def __init__(self, raw_len: int, mask: str = "strict"):
        self.raw_len, self.mask = raw_len, mask


def make(model: Model) -> Regroup:
    return Regroup(5, model.raw_len, mask=model.mask, depths=(1, 3))


def columns_of(flows: FlowBatch) -> dict[int, list]:
    """By flow id, all that a row says but its bytes, which are masked in two ways."""
    names = ("key", "packets", "lost", "reason", "ready_ns")
    return {
        flow: [getattr(flows, name)[i].tobytes() for name in names]
        for i, flow in enumerate(flows.flow_id.tolist())
    }


def test_rows_are_those_of_one_regrouping_whenever_it_changes():
    """Of the flows each other one is a processor's."""
    packets, alone = random_packets(Random(7), 3000, 150), make(Model(60))
    starts = range(0, len(packets), 200)
    places = np.arange(len(packets))
    batches = [packets.select((places >= start) & (places < start + 200)) for start in starts]
    wanted = [columns_of(alone.add(batch)) for batch in batches] + [columns_of(alone.flush())]
    stayed = 0
    for at in range(len(batches)):
        lanes, older, newest = changed_at(at, batches)
        assert not set(older) & set(newest)
        assert {**older, **newest} == {flow: row for one in wanted for flow, row in one.items()}
        assert lanes.counters == alone.counters
        stayed += len(older)
    assert stayed > 100


def changed_at(at: int, batches: list[PacketBatch]) -> tuple[Lanes, dict, dict]:
    """Return lanes after batches, and what came out of the older one and of the newest."""
    begun = np.zeros(int(CPUS), np.uint64)
    lanes = Lanes(make, Model(60, "standard"), lambda: begun.copy())
    older: dict[int, list] = {}
    newest: dict[int, list] = {}

    def take(flows: FlowBatch, depth: np.ndarray | None) -> None:
        if depth is None:
            older.update(columns_of(flows))

    for i, batch in enumerate(batches):
        if i == at:
            lanes.change(Model(60), take)
        newest.update(columns_of(lanes.add(batch)))
        np.maximum.at(begun, (batch.flow_id % CPUS).view(np.int64), batch.flow_id // CPUS)
    newest.update(columns_of(lanes.flush()))
    return lanes, older, newest


def take_over(wire: Wire, tap: live.Live, raw: Path) -> None:
    """Change to a model amid a flow, and begin another."""
    tap.set_model(tap.load_model(raw))
    send(wire, [packet(LARGE)] * 6 + [packet(BETWEEN)] * LAST)


def change_and_back(wire: Wire, tap: live.Live, answers: Answers, raw: Path) -> None:
    """Send a flow over the change to a model, one while it answers, and one after it."""

    def back() -> None:
        tap.roll_back_model()
        send(wire, [packet(SMALL)] * LAST)

    send(wire, [packet(LARGE)] * 4)
    answers.until(
        (lambda: answers.stored() == 4, lambda: take_over(wire, tap, raw)),
        (lambda: len(answers.said) == 2, back),
        (lambda: len(answers.said) == 3, tap.stop),
    )
    answers.assert_exact(settled=0)
    assert tap._regroup.counters["REGROUP_FLOWS"] == 3


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    """A cascade that needs no bytes of packets; its first stage is sure of nothing."""
    stages = (
        Stage(3, write_trees(tmp_path / "first.onnx", 3), rule=Rule(probability=1.1)),
        Stage(LAST, write_trees(tmp_path / "last.onnx", LAST)),
    )
    Cascade(stages).save(tmp_path / "c.toml")
    return tmp_path / "c.toml"


@pytest.mark.root
def test_a_model_of_whole_packets_takes_over_from_one_that_keeps_none(wire, tmp_path, trees):
    raw = tmp_path / write_raw(tmp_path / "raw.onnx")
    with live.attach(
        wire.device, cascade=trees, netns=wire.near, mode="tc", wait_s=NEVER_IDLE_S
    ) as tap:
        answers = Answers(tap)
        change_and_back(wire, tap, answers, raw)
    # each by who was there when it began, with all of its packets
    assert answers.said == {
        LARGE: ("large", 1, LAST, False),
        BETWEEN: ("large", 0, LAST, False),
        SMALL: ("small", 1, LAST, False),
    }


@pytest.mark.root
def test_beside_a_shadow_a_model_may_see_the_bytes_that_are_kept_for_it(wire, tmp_path, trees):
    """All that was answered is compared; rows under another mask would not be the shadow's."""
    raw = tmp_path / write_raw(tmp_path / "raw.onnx")
    loose = tmp_path / write_raw(tmp_path / "loose.onnx", "none")
    with live.attach(
        wire.device, cascade=trees, shadow=raw, netns=wire.near, mode="tc", wait_s=NEVER_IDLE_S
    ) as tap:
        answers = Answers(tap)

        def back() -> None:
            with pytest.raises(UsageError, match="needs mask 'none', attached is 'strict'"):
                tap.set_model(tap.load_model(loose))
            tap.roll_back_model()
            send(wire, [packet(SMALL)] * LAST)

        send(wire, [packet(LARGE)] * 4)
        answers.until(
            (lambda: answers.stored() == 4, lambda: take_over(wire, tap, raw)),
            (lambda: len(answers.said) == 2, back),
            (lambda: tap.shadow_report()["flows"] == 3, tap.stop),
        )
        answers.assert_exact(settled=0)
        report = tap.shadow_report()
    assert {port: said[0] for port, said in answers.said.items()} == {
        LARGE: "large",
        BETWEEN: "large",
        SMALL: "small",
    }
    assert (report["skipped"], report["failure"]) == (0, "")


@pytest.mark.root
def test_a_shadow_waits_for_flows_under_another_mask_and_keeps_its_own(wire, tmp_path, trees):
    loose = tmp_path / write_raw(tmp_path / "loose.onnx", "none")
    shadow = load_model(tmp_path / write_trees(tmp_path / "shadow.onnx", LAST, "none"))
    with live.attach(
        wire.device, cascade=trees, netns=wire.near, mode="tc", wait_s=NEVER_IDLE_S
    ) as tap:
        answers = Answers(tap)

        def change() -> None:
            tap.set_model(tap.load_model(loose))
            with pytest.raises(UsageError, match="under another mask than 'none' are open still"):
                tap.set_shadow(shadow)
            send(wire, [packet(LARGE)] * (LAST - 4))

        def compare() -> None:
            tap.set_shadow(shadow)
            with pytest.raises(UsageError, match="needs mask 'strict', attached is 'none'"):
                tap.roll_back_model()
            send(wire, [packet(SMALL)] * LAST)

        send(wire, [packet(LARGE)] * 4)
        answers.until(
            (lambda: answers.stored() == 4, change),
            (lambda: len(answers.said) == 1 and not tap._regroup.has_older, compare),
            (lambda: len(answers.said) == 2 and tap.shadow_report()["flows"] == 1, tap.stop),
        )
        report = tap.shadow_report()
    assert answers.said == {LARGE: ("large", 1, LAST, False), SMALL: ("small", 0, LAST, False)}
    assert (report["agreed"], report["skipped"]) == (1, 0)


class AnswersByModel(Answers):
    """Which model answered, and of how many packets, by port."""

    def __init__(self, tap: live.Live):
        super().__init__(tap)
        self.models: dict[int, list[tuple[str, int]]] = {}

    def _note(self, verdicts: VerdictBatch) -> None:
        super()._note(verdicts)
        name = verdicts.models[0].partition("@")[0]
        for flow_id, used in zip(verdicts.flows.flow_id, verdicts.packets_used, strict=True):
            by_port = self.models.setdefault(self.ports[int(flow_id)], [])
            by_port.append((name, int(used)))


@pytest.mark.root
def test_one_model_of_whole_packets_takes_over_from_one_that_keeps_none(wire, tmp_path):
    first = tmp_path / write_trees(tmp_path / "first.onnx", LAST)
    raw = tmp_path / write_raw(tmp_path / "raw.onnx")
    with live.attach(
        wire.device, model=first, netns=wire.near, mode="tc", wait_s=NEVER_IDLE_S
    ) as tap:
        answers = AnswersByModel(tap)
        change_and_back(wire, tap, answers, raw)
    # each by who was there when it began, with all of its packets, and once
    names = {LARGE: f"at{LAST}", BETWEEN: "raw10", SMALL: f"at{LAST}"}
    assert answers.models == {port: [(name, LAST)] for port, name in names.items()}


def test_an_older_regrouping_goes_when_its_flows_are_done():
    lanes = Lanes(make, Model(0), lambda: np.array([9], np.uint64))
    taken: list[int] = []
    batch = next(iter(Capture(LAB[:1], first_n=5)))
    lanes.change(Model(60), lambda flows, depth: taken.extend(flows.flow_id.tolist()))
    now = int(batch.timestamp_ns[batch.flow_id <= 9].max())
    theirs = batch.select(batch.flow_id <= 9)
    lanes.add(theirs, now)
    assert lanes.has_older and lanes.pending > 0
    second = 1_000_000_000
    for later in (2, 3, 5):
        lanes.add(theirs.select(np.zeros(len(theirs), bool)), now + later * second)
    assert not lanes.has_older
    assert set(theirs.flow_id.tolist()) == set(taken)
    assert lanes.counters["REGROUP_FLOWS"] == len(set(taken))
