"""New flows a second that one processor answers, with inputs of thousands of features.

    .venv/bin/python tools/bench/cascade.py [SECONDS]

Everything behind the ring is in it: regrouping with early rows, queues, states, inputs of the
size of nPrint's (1024 bits of each packet's headers, as float32), 96 trees a stage, and verdicts.
The first stage sees one packet and passes a fifth of the flows on, the second one sees three.
Processor time counts, so a busy machine changes little.
"""

import json
import sys
import time

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.cascade.runtime import Runtime
from etcpipe.cascade.serving import Serving
from etcpipe.cascade.stages import Rule, Stage
from etcpipe.gpu.inference_trees import Judge, TreesRunner
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.layout import CONSTANTS
from etcpipe.model_file import Description
from etcpipe.training import trees

CLASSES = tuple(f"class{i}" for i in range(8))
BYTES = 128  # of a packet: 1024 features
ROUNDS = 12
DEPTHS = (1, 3)
SHARE = 0.2  # of the flows, passed on
FLOWS = 256  # that begin in one batch of packets: what comes in 8 ms at 30,000 a second
FRAME = bytes.fromhex(
    "02000000000102000000000208004500009c000140004006000ac0000201c6336407"
    "9c4001bb0000000100000001501804000000" + "0000" + "17030300a0"
) + bytes(range(120))


class Bits:
    """Trees on the bits of a flow's first packets, as a judge asks for them."""

    classes, temperature, threshold = CLASSES, 1.0, 0.0
    family_of, family_threshold, shares = np.full(len(CLASSES), -1, np.int32), np.inf, None

    def __init__(self, depth: int):
        self.first_n = depth

    def rows(self, flows: FlowBatch) -> np.ndarray:
        """Return (flows, bits) float32."""
        bits = flows.raw[:, : self.first_n].reshape(len(flows), -1)
        return np.unpackbits(bits, axis=1).astype(np.float32)


def judge(depth: int, seed: int) -> Judge:
    """Return such trees as a stage of a runtime calls them."""
    rng = np.random.default_rng(seed)
    features = 8 * BYTES * depth
    rows = rng.integers(0, 2, (1000, features)).astype(np.float32)
    fitted = trees.fit(rows, rng.integers(0, len(CLASSES), 1000), len(CLASSES), seed, ROUNDS)
    about = Description(
        name="bits",
        classes=CLASSES,
        view="stats",
        columns=("s_pkt_cnt",),
        schema_hash=schema_hash(VIEWS["stats"], depth, columns=("s_pkt_cnt",)),
        first_n=depth,
    )
    contents = trees.to_onnx(fitted, features, about)
    return Judge(Bits(depth), TreesRunner(contents))


def packets(first: int, rng: np.random.Generator) -> list[PacketBatch]:
    """Return three batches: so many flows begin, and have a second and a third packet."""
    frames = np.tile(np.frombuffer(FRAME, np.uint8), (FLOWS, 1))
    frames[:, 60:] = rng.integers(0, 256, (FLOWS, frames.shape[1] - 60))
    each = np.zeros(FLOWS, np.uint32)
    return [
        PacketBatch(
            memory=frames.ravel(),
            offset=np.arange(FLOWS, dtype=np.uint64) * np.uint64(frames.shape[1]),
            captured=each + np.uint32(frames.shape[1]),
            wire_len=each + np.uint32(frames.shape[1]),
            timestamp_ns=np.full(FLOWS, 10**9 + 1000 * (first + rank), np.uint64),
            flow_id=np.arange(first, first + FLOWS, dtype=np.uint64),
            rank=np.full(FLOWS, rank, np.uint16),
            direction=each.astype(np.uint8),
            vlan=np.full(FLOWS, CONSTANTS["VLAN_NONE"], np.uint16),
            segment_len=each.astype(np.uint16),
            ifindex=each,
        )
        for rank in range(3)
    ]


def measure(seconds: float) -> dict[str, float]:
    """Return what was answered in so much processor time."""
    rule = Rule("target", 0.5, share=SHARE)
    stages = [
        Serving(Stage(depth, "bits", rule=r), judge(depth, depth), CLASSES, f"bits{depth}")
        for depth, r in zip(DEPTHS, (rule, None), strict=True)
    ]
    served = Runtime(stages, early=True)
    regroup = Regroup(DEPTHS[-1], raw_len=BYTES, mask="none", depths=DEPTHS[:-1])
    rng = np.random.default_rng(0)
    spent, answered, first = 0.0, 0, 1
    while spent < seconds:
        batches = packets(first, rng)
        began = time.process_time()
        for batch in batches:
            closed, early = regroup.add(batch), regroup.take_early()
            served.add(early.flows, 0, early.depth)
            served.add(closed, 0)
            answered += sum(len(one.final()) for one in served.poll(0, flush=True))
            regroup.leave(served.left())
        spent += time.process_time() - began
        first += FLOWS
    counters = served.counters
    return {
        "flows_per_s": round(answered / spent),
        "flows": answered,
        "unanswered": first - 1 - answered,
        "escalated": round(counters["CASCADE_LAST"] / max(answered, 1), 3),
        "features": 8 * BYTES * DEPTHS[-1],
    }


if __name__ == "__main__":
    print(json.dumps(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0)))
