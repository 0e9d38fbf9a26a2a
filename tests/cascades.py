"""Flows and models by hand, for tests of the cascade."""

import numpy as np

from etcpipe.batch import FlowBatch, rows_of
from etcpipe.cascade.runtime import Runtime
from etcpipe.cascade.serving import Serving
from etcpipe.cascade.stages import Rule, Stage
from etcpipe.layout import READY_REASONS
from etcpipe.model import Answers

CLASSES = ("chat", "mail", "web")
N = 4
MS = 1_000_000


def rows(flow_ids, packets=1, at_ns=0, reason="depth") -> FlowBatch:
    """Rows of flows with so many packets, the first one at 0, complete at at_ns."""
    flows = rows_of(len(flow_ids), N, 0)
    flows.flow_id[:] = list(flow_ids)
    flows.packets["present"][:, :packets] = 1
    flows.reason[:] = READY_REASONS.index(reason)
    flows.ready_ns[:] = at_ns
    return flows


def depth_of(flows: FlowBatch, depth: int) -> np.ndarray:
    """The depths of early rows."""
    return np.full(len(flows), depth, np.uint8)


class Script:
    """A model that says of each flow what it was told to, and remembers its batches.

    Args:
        says: (label, probability) by flow id, else by 0.
        took_ns: for each flow.
    """

    def __init__(self, says, took_ns=1000):
        self.says, self.took_ns = says, took_ns
        self.batches: list[list[int]] = []

    def __call__(self, flows: FlowBatch) -> Answers:
        ids = flows.flow_id.tolist()
        self.batches.append(ids)
        said = [self.says.get(one, self.says.get(0)) for one in ids]
        label = np.array([label for label, _ in said], np.int16)
        present = flows.packets["present"].sum(axis=1).astype(np.uint16)
        probability = np.array([probability for _, probability in said], np.float32)
        runner_up = ((label + 1) % len(CLASSES)).astype(np.int16)
        return Answers(label, probability, runner_up, present, self.took_ns * len(ids))


def serving(packets, script, sure=0.9, last=False, **settings) -> Serving:
    """A stage that is sure from a probability on."""
    rule = None if last else Rule("threshold", sure)
    stage = Stage(packets, f"m{packets}.onnx", rule=rule, **settings)
    # turns are measured on the machine that tests run on: they must not bound anything here
    return Serving(stage, script, CLASSES, f"m{packets}@0", latency_ms=60_000)


def runtime(*scripts, depths=(1, 3, 4), workers=None, early=False, slots=1 << 10, **settings):
    """A runtime of one stage a script."""
    stages = [
        serving(depth, script, last=i + 1 == len(scripts), **settings)
        for i, (depth, script) in enumerate(zip(depths, scripts, strict=False))
    ]
    return Runtime(stages, workers, early=early, slots=slots)


def play(served, events, after=lambda: None):
    """The verdicts on rows of (time in ms, flow, depth or 0, packets), but for the last ones."""
    verdicts, gone = [], set()
    for at, flow, depth, length in events:
        now = int(at * MS)
        if flow not in gone:
            row = rows([flow], length, now, "depth" if depth or length == 4 else "idle")
            served.add(row, now, depth_of(row, depth) if depth else None)
        verdicts += served.poll(now)
        gone |= set(served.left().tolist())
        after()
    return verdicts


def said(batches):
    """(flow id, event) -> (label, stage, packets, source) of verdicts; each flow has one at most.

    A flow that was forgotten may be told of early once more.
    """
    from etcpipe.verdict import EVENTS, SOURCES

    found = {}
    for batch in batches:
        for i in range(len(batch)):
            event = EVENTS[batch.event[i]]
            one = (int(batch.flows.flow_id[i]), event)
            assert one not in found or event == "early", f"{one} twice"
            source = SOURCES[batch.source[i]]
            found[one] = (batch.name(i), int(batch.stage[i]), int(batch.packets_used[i]), source)
    return found
