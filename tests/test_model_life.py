"""Another model for a running attach, and a shadow beside it: nothing is lost, each flow is
answered once."""

# ruff: noqa: F401, F811  (wire is a fixture, imported and then taken as an argument)

import json
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path

import captures
import numpy as np
import onnx
import pytest
from command import Running, fails, run
from kernel_fixtures import Wire, wire
from test_cascade_life import write_cascade
from verdicts import Flow, verdicts

from etcpipe import model as models
from etcpipe.errors import EngineError
from etcpipe.model_file import DESCRIPTION_KEY, DIGEST_KEY, NO_DIGEST, seal
from etcpipe.shadow import QUEUE_BATCHES, Shadow, report_lines

root = pytest.mark.root
FIRST_N = 50  # of the model that ships, as one model
ONE = ("-m", "default")


def variant(folder: Path, name: str, **changes: object) -> Path:
    """Return a file with the default model under another name, and other things it says."""
    graph = onnx.load(models.find(None))
    for entry in graph.metadata_props:
        if entry.key == DESCRIPTION_KEY:
            entry.value = json.dumps(json.loads(entry.value) | changes | {"name": name})
        elif entry.key == DIGEST_KEY:
            entry.value = NO_DIGEST
    path = folder / f"{name}.onnx"
    path.write_bytes(seal(graph.SerializeToString()))
    return path


class Flows:
    """UDP flows without an end, one after the other, each whole; a context manager."""

    def __init__(self, wire: Wire):
        self._wire = wire
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.sent: list[int] = []

    def __enter__(self) -> "Flows":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _send(self) -> None:
        with self._wire.raw() as sender:
            for port in range(2000, 60000):
                if self._stop.is_set():
                    return
                packet = captures.udp(90, src="10.77.0.2", dst="10.77.0.1", sport=port, dport=4433)
                for _ in range(FIRST_N):
                    sender.send(captures.ether(packet))
                self.sent.append(port)
                time.sleep(0.002)


def events_of(etcpipe: Running) -> list[dict]:
    whole = etcpipe.stdout.rpartition("\n")[0]
    events = [json.loads(line) for line in whole.splitlines()]
    return [event for event in events if event["dest_port"] == 4433]


@root
def test_a_model_is_replaced_and_comes_back_amid_traffic(wire, tmp_path):
    other = variant(tmp_path, "other")
    on_device = ("--dev", wire.device)
    with Running("-j", "-n", wire.near, "attach", wire.device, *ONE, folder=tmp_path) as etcpipe:
        etcpipe.until_attached()
        with Flows(wire) as flows:
            for step in (("load", str(other), *on_device), ("rollback", *on_device)):
                before = len(flows.sent)
                done = run("-j", "-n", wire.near, "model", *step, check=0)
                named = json.loads(done.stdout)["model"].split("@")[0]
                assert named == ("other" if step[0] == "load" else "default")
                etcpipe.until(lambda before=before: len(flows.sent) > before + 20)
        etcpipe.until(lambda: len(events_of(etcpipe)) >= len(flows.sent))
        assert etcpipe.signalled(signal.SIGINT) == 0
    events = events_of(etcpipe)
    assert sorted(event["src_port"] for event in events) == flows.sent
    assert {event["etcpipe"]["packets_used"] for event in events} == {FIRST_N}
    said_by = [event["etcpipe"]["model"].split("@")[0] for event in events]
    changes = [a for a, b in pairwise(said_by) if a != b]
    assert (said_by[0], said_by[-1], changes) == ("default", "default", ["default", "other"])
    assert f"{wire.device}: load {other} by request; other@" in etcpipe.stderr
    assert f"{wire.device}: rollback by request; default@" in etcpipe.stderr
    assert "lost: none" in etcpipe.stderr
    assert wire.leftovers() == []


@root
def test_a_shadow_is_compared_and_answers_nobody(wire, tmp_path):
    classes = models.load().classes
    shadow = variant(tmp_path, "turned", classes=(*classes[1:], classes[0]))
    options = ("-j", "-n", wire.near, "attach", wire.device, "--shadow", str(shadow))
    with Running(*options, folder=tmp_path) as etcpipe:
        etcpipe.until_attached()
        with Flows(wire) as flows:
            etcpipe.until(lambda: len(flows.sent) >= 30)
        etcpipe.until(lambda: len(events_of(etcpipe)) >= len(flows.sent))

        def shown() -> dict:
            text = run("-j", "-n", wire.near, "show", wire.device, check=0).stdout
            return json.loads(text)[0]

        etcpipe.until(lambda: shown()["shadow"]["flows"] >= len(flows.sent))
        assert shown()["model"]["name"] == "default"
        text = run("-n", wire.near, "show", wire.device, check=0).stdout
        assert f"\n{wire.device}\nshadow turned@" in text
        assert etcpipe.signalled(signal.SIGINT) == 0
    events = events_of(etcpipe)
    assert {event["etcpipe"]["model"].split("@")[0] for event in events} == {"default"}
    assert "\nshadow turned@" in etcpipe.stderr
    assert wire.leftovers() == []


@root
def test_a_shadow_is_set_later_and_other_requests_are_refused_in_words(wire, tmp_path):
    on_device = ("--dev", wire.device)
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    net = ("-n", wire.near, "model")
    line = fails(*net, "rollback", *on_device, status=1)
    assert line == "tap0: no attach runs there: start one"
    with Running("-j", "-n", wire.near, "attach", wire.device, *ONE, folder=tmp_path) as etcpipe:
        etcpipe.until_attached()
        assert "model" in fails(*net, "load", str(bad), *on_device, status=1)
        line = fails(*net, "rollback", *on_device, status=1)
        assert line == "tap0: no other model was loaded since the start"
        few = variant(tmp_path, "loose", mask="none")
        assert "schema" in fails(*net, "load", str(few), *on_device, status=1)
        turned = variant(tmp_path, "turned", classes=tuple(reversed(models.load().classes)))
        assert "other classes" in fails(*net, "load", str(turned), *on_device, status=1)
        cascade = str(write_cascade(tmp_path, "a"))
        line = fails(*net, "load", cascade, *on_device, status=1)
        assert line == f"tap0: one model answers: attach anew with --cascade {cascade}"
        done = run(*net, "load", str(turned), *on_device, "--shadow", check=0)
        assert done.stdout.startswith("tap0: shadow turned@")
        assert etcpipe.signalled(signal.SIGINT) == 0
    assert "shadow turned@" in etcpipe.stderr
    assert wire.leftovers() == []


class Answering:
    """Stands for a model: says the same class of all flows, or fails."""

    engine = "by hand"
    classes = labels = ("web", "ssh")

    def __init__(self, label: int, gate: threading.Event | None = None):
        self._label, self._gate = label, gate

    def __str__(self) -> str:
        return "other@0"

    def answers(self, flows, scorer=None):
        if self._gate:
            self._gate.wait()
        if self._label > 1:
            raise EngineError("out of memory")
        return models.Answers(np.full(len(flows), self._label, np.int16), *[None] * 4)


def test_agreement_goes_by_the_names_of_classes():
    shadow = Shadow(Answering(0))
    shadow.ask(verdicts(Flow(label=1), Flow(label=0), Flow(label=-1), Flow(label=1)))
    shadow.close()
    report = shadow.report()
    assert (report["flows"], report["agreed"], report["agreement"]) == (4, 2, 0.5)
    assert report["differences"] == [
        {"active": "ssh", "shadow": "web", "flows": 1},
        {"active": "unknown", "shadow": "web", "flows": 1},
    ]
    assert report_lines(report)[0] == "shadow other@0: 50.0 % the same of 4 flows"


def test_a_shadow_that_is_slow_is_not_waited_for():
    gate = threading.Event()
    shadow = Shadow(Answering(0, gate))
    for _ in range(QUEUE_BATCHES + 10):
        shadow.ask(verdicts(Flow(), Flow()))
    gate.set()
    shadow.close()
    report = shadow.report()
    assert report["flows"] + report["skipped"] == 2 * (QUEUE_BATCHES + 10)
    assert 2 * 9 <= report["skipped"] <= 2 * 10


def test_a_shadow_that_fails_says_so():
    shadow = Shadow(Answering(2))
    shadow.ask(verdicts(Flow()))
    shadow.close()
    report = shadow.report()
    assert (report["flows"], report["skipped"], report["agreement"]) == (0, 1, None)
    assert report["failure"] == "out of memory"
