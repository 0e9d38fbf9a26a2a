"""A cascade takes another one's place: each flow is answered once, by who began with it."""

# ruff: noqa: F401, F811  (wire is a fixture, imported and then taken as an argument)

import json
import random
import signal

import captures
import pytest
from cascades import Script, depth_of, play, rows, runtime, said
from command import Running, fails, run
from kernel_fixtures import wire

from etcpipe import capture as captured
from etcpipe import pipeline
from etcpipe.cascade.life import LEAVING_MAX, CascadeInService
from etcpipe.cascade.runtime import Runtime
from etcpipe.cascade.serving import load, load_stages
from etcpipe.cascade.stages import Cascade, Rule, Stage
from etcpipe.errors import UsageError
from etcpipe.kernel.settings import TapSettings
from etcpipe.model_choice import regroup_for
from etcpipe.model_life import check_fits

pytest.importorskip("onnx", reason="making models needs etcpipe[train]")
from test_cascade_offline import LAB, write_model

SURE, UNSURE = (0, 0.95), (1, 0.5)


def in_service(*served: Runtime) -> CascadeInService:
    """What answers by the first of some runtimes; replace() takes the number of another one."""
    return CascadeInService(0, lambda number: served[number])


def add_early(served, *flows, packets=1):
    row = rows(flows, packets)
    served.add(row, 0, depth_of(row, packets))


def test_flows_that_have_begun_are_answered_by_the_stages_that_began_with_them():
    old = runtime(Script({0: UNSURE}), Script({0: (2, 0.8)}), depths=(1, 4))
    new = runtime(Script({0: SURE}), Script({0: UNSURE}), depths=(1, 4))
    served = in_service(old, new)
    add_early(served, 1, 2)
    assert served.poll(flush=True) == []
    served.replace(1)
    add_early(served, 3)
    served.add(rows([1, 4], packets=4))
    found = said(served.poll(flush=True))
    assert found == {
        (1, "verdict"): ("web", 1, 4, "model"),
        (3, "verdict"): ("chat", 0, 1, "model"),
        (4, "verdict"): ("chat", 0, 4, "model"),
    }
    assert served.left().tolist() == [3]
    assert served._runtimes() == [old, new]  # a flow waits for packets still
    served.add(rows([2], packets=2, reason="idle"))
    assert said(served.poll(flush=True)) == {(2, "verdict"): ("web", 1, 2, "timeout")}
    assert served.left().tolist() == []
    assert served._runtimes() == [new]
    counters = served.counters
    assert (counters["CASCADE_LAST"], counters["CASCADE_SURE"]) == (2, 2)


def test_replaced_stages_are_kept_for_a_flow_anywhere_in_their_table():
    old, new = (runtime(Script({0: UNSURE}), Script({0: SURE}), slots=1 << 14) for _ in range(2))
    served = in_service(old, new)
    add_early(served, 10_000)
    served.poll(flush=True)
    served.replace(1)
    for _ in range(16):
        served.left()
    assert served._runtimes() == [old, new]
    served.add(rows([10_000], packets=4))
    assert said(served.poll(flush=True)) == {(10_000, "verdict"): ("chat", 1, 4, "model")}
    for _ in range(16):
        served.left()
    assert served._runtimes() == [new]


def test_a_row_after_its_flows_answer_goes_to_nobody():
    old, new = (runtime(Script({0: SURE}), Script({0: SURE}), depths=(1, 4)) for _ in range(2))
    served = in_service(old, new)
    add_early(served, 1)
    served.replace(1)
    assert said(served.poll(flush=True)) == {(1, "verdict"): ("chat", 0, 1, "model")}
    served.add(rows([1], packets=4))  # came before regrouping heard that the flow is answered
    assert served.drain(lambda: 0) == []
    assert served.left().tolist() == [1]


def test_a_model_that_waits_for_more_is_asked_at_the_next_depth_that_there_is():
    model = Script({0: SURE})
    served = in_service(runtime(Script({0: UNSURE}), depths=(1,)), runtime(model, depths=(2,)))
    served.replace(1)
    add_early(served, 7, packets=1)
    assert served.poll(flush=True) == [] and model.batches == []
    add_early(served, 7, packets=3)
    assert said(served.poll(flush=True)) == {(7, "verdict"): ("chat", 0, 3, "model")}


def test_changes_are_refused_while_too_many_cascades_have_flows():
    served = in_service(*(runtime(Script({0: UNSURE}), Script({0: SURE})) for _ in range(6)))
    for number in range(1, LEAVING_MAX + 1):
        add_early(served, number)
        served.poll(flush=True)
        served.replace(number)
    with pytest.raises(UsageError, match="still have flows to answer: try again in a minute"):
        served.replace(5)
    assert served.active == LEAVING_MAX
    served.add(rows([1], packets=4))
    served.poll(flush=True)
    served.left()
    served.replace(5)
    assert served.active == 5


@pytest.mark.parametrize("seed", range(6))
def test_every_flow_is_answered_once_however_cascades_change(seed):
    rng = random.Random(seed)
    says = {flow: (rng.randrange(3), rng.random()) for flow in range(1, 301)}
    stages = [
        (Script(says), Script({0: (2, 0.95 * rng.random())}), Script({0: (2, 0.3)}))
        for _ in range(12)
    ]
    depths = ((1, 3, 4), (2, 3, 4), (3, 3, 4))
    every = [runtime(*one, depths=depths[i % 3], batch=8) for i, one in enumerate(stages)]
    served = in_service(*every)
    events = []
    for flow in range(1, 301):
        at, length = flow + rng.random(), rng.randrange(1, 5)
        events += [(at + d * rng.random() * 5, flow, d, d) for d in (1, 3) if d <= length]
        events.append((at + 20 + rng.random(), flow, 0, length))

    def change():
        if rng.random() < 0.05 and served.active < 11 and len(served._leaving) < LEAVING_MAX:
            served.replace(served.active + 1)

    verdicts = play(served, sorted(events), change)
    verdicts += served.drain(lambda: 10**12)
    served.left()
    assert served.active > 5 and served._runtimes() == [every[served.active]]
    final = [flow for flow, event in said(verdicts) if event != "early"]
    assert sorted(final) == list(range(1, 301))
    assert sum(served.counters[f"CASCADE_{why}"] for why in ("SURE", "LAST")) == 300


def write_cascade(folder, name, depths=(1, 10), sure=0.9):
    """A cascade of two stages whose models have that name."""
    names = [f"{name}{depth}" for depth in depths]
    for one, depth in zip(names, depths, strict=True):
        write_model(folder / f"{one}.onnx", depth, name=one)
    first = Stage(depths[0], f"{names[0]}.onnx", rule=Rule("threshold", sure))
    path = folder / f"{name}.toml"
    Cascade((first, Stage(depths[1], f"{names[1]}.onnx")), wait_s=5.0).save(path)
    return path


class Changing:
    """A capture as the pipeline's source, that does something after some batches of packets."""

    def __init__(self, capture, after, do):
        self._capture, self._after, self._do = capture, after, do
        self.records, self.clock_ns = capture.records, capture.clock_ns

    def __iter__(self):
        for i, batch in enumerate(self._capture):
            if i == self._after:
                self._do()
            yield batch


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(captured, "BATCH_MAX", 50)  # 1774 packets in three files, 37 batches


def answers_of(first, then=None):
    """Flow id -> (name, probability, packets, model); each flow once; `then` takes over midway."""
    served = CascadeInService(first, lambda one: Runtime(one.servings()))
    capture = captured.Capture(LAB, first_n=10)
    source = Changing(capture, 18 if then else -1, lambda: served.replace(then))
    found = {}
    for batch in pipeline.serve(source, regroup_for(first, 10, 1.0), served):
        for i, flow in enumerate(batch.flows.flow_id.tolist()):
            assert flow not in found
            model = batch.models[batch.stage[i]].split("@")[0]
            found[flow] = (batch.name(i), batch.probability[i], batch.packets_used[i], model)
    capture.close()
    return found


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_answers_amid_a_change_are_those_of_either_cascade(tmp_path, small_batches, depth):
    """The second one's first depth is none of the first one's: it is asked later, of the same."""
    first = load(write_cascade(tmp_path, "a", (1, 10)))
    then = load(write_cascade(tmp_path, "b", (depth, 10), sure=0.6))
    alone = {"a": answers_of(first), "b": answers_of(then)}
    mixed = answers_of(first, then)
    assert mixed.keys() == alone["a"].keys() == alone["b"].keys()
    said_by = {flow: answer[3] for flow, answer in mixed.items()}
    assert {"a1", "a10", f"b{depth}"} <= set(said_by.values())
    assert mixed == {flow: alone[model[0]][flow] for flow, model in said_by.items()}


def test_a_plain_model_is_a_cascade_of_one_stage(tmp_path, small_batches):
    first = load(write_cascade(tmp_path, "a"))
    plain = load_stages(write_model(tmp_path / "plain.onnx", 5, name="plain"))
    assert plain.depths == (5,)
    alone, mixed = answers_of(plain), answers_of(first, plain)
    theirs = {flow: answer for flow, answer in mixed.items() if answer[3] == "plain"}
    assert len(mixed) == len(alone) > len(theirs) > 20
    assert theirs == {flow: alone[flow] for flow in theirs}


def test_what_regrouping_does_not_give_is_refused(tmp_path):
    active = load(write_cascade(tmp_path, "a"))
    settings = TapSettings(first_n=10)
    check_fits(load(write_cascade(tmp_path, "b", (3, 8))), active, settings, 0)
    deeper = load(write_cascade(tmp_path, "c", (1, 20)))
    with pytest.raises(UsageError, match=r"needs 20 packets of a flow, .* anew with --first 20$"):
        check_fits(deeper, active, settings, 0)


def send(wire, packets):
    """Send so many packets of flows, by source port."""
    with wire.raw() as sender:
        for port, n in packets.items():
            packet = captures.udp(90, src="10.77.0.2", dst="10.77.0.1", sport=port, dport=4433)
            for _ in range(n):
                sender.send(captures.ether(packet))


def events_of(etcpipe: Running) -> dict:
    """Source port -> what its final line says; each flow once."""
    events = [json.loads(line) for line in etcpipe.stdout.rpartition("\n")[0].splitlines()]
    final = [e for e in events if e["dest_port"] == 4433 and e["event_type"] != "early"]
    found = {event["src_port"]: event["etcpipe"] for event in final}
    assert len(found) == len(final)
    return found


@pytest.mark.root
def test_a_cascade_is_replaced_and_comes_back_amid_traffic(wire, tmp_path):
    first = write_cascade(tmp_path, "a", (1, 4), sure=1.01)
    then = write_cascade(tmp_path, "b", (1, 4), sure=1.01)
    plain = write_model(tmp_path / "plain.onnx", 3, name="plain")
    deep = write_model(tmp_path / "deep.onnx", 9)
    model = ("-n", wire.near, "model")
    on_device = ("--dev", wire.device)
    attach = ("-j", "-n", wire.near, "attach", wire.device, "--cascade", str(first))
    with Running(*attach, folder=tmp_path) as etcpipe:
        etcpipe.until_attached()
        steps = (("load", str(then)), ("load", str(plain)), ("rollback",), ())
        port = 20000
        for step in steps:  # half of the flows are on their way while the model changes
            send(wire, {**dict.fromkeys(range(port, port + 3), 1), port + 3: 4})
            etcpipe.until(lambda port=port: port + 3 in events_of(etcpipe))
            if step:
                run(*model, *step, *on_device, check=0)
            send(wire, dict.fromkeys(range(port, port + 3), 4))
            port += 4
        line = fails(*model, "load", str(deep), *on_device, status=1)
        assert line.endswith(
            "needs 9 packets of a flow, attached with 4: attach anew with --first 9"
        )
        etcpipe.until(lambda: len(events_of(etcpipe)) == 16)
        assert etcpipe.signalled(signal.SIGINT) == 0
    said_by = [said["model"].split("@")[0] for _, said in sorted(events_of(etcpipe).items())]
    # the plain model had taken no row yet of the three flows of which it saw a packet
    assert said_by == ["a4"] * 4 + ["b4"] * 4 + ["b4"] * 3 + ["plain"] + ["b4"] * 4
    assert "lost: none" in etcpipe.stderr
    assert wire.leftovers() == []
