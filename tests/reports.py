"""A hand-made report of a running attach, as monitors read it."""

from typing import Any

from verdicts import Flow, verdicts

from etcpipe.outputs.tally import Tally


def report(device: str = "eth0", **changed: Any) -> dict[str, Any]:
    """Return a report: three flows judged, packets seen and lost, one output."""
    tally = Tally()
    tally.add(verdicts(Flow(), Flow(label=0, probability=0.55)))
    tally.add(verdicts(Flow(label=-1, source="timeout", wait_ns=0, queue_ns=0, infer_ns=0)))
    return {
        "version": 1,
        "etcpipe": "0.1.0",
        "device": device,
        "netns": 4026531840,
        "pid": 4711,
        "since": 1_700_000_000.0,
        "time": 1_700_000_060.0,
        "mode": "tc",
        "loader": "libbpf",
        "model": {"name": "test", "digest": "0123456789ab", "engine": "ONNX Runtime"},
        "counters": {
            "PACKETS_SEEN": 1000,
            "PACKETS_NOT_IP": 7,
            "PACKETS_TRACKED": 990,
            "PACKETS_FIRST_N": 38,
            "PACKETS_SETTLED": 8,
            "PACKETS_CLONED": 28,
            "PACKETS_REDIRECTED": 27,
            "FLOWS_CREATED": 5,
        },
        "lost": {"PACKETS_CLONE_FAILED": 2, "RING_RX_RING_FULL": 1},
        **tally.asdict(),
        "ended": {"idle": 2},
        "flows": 3,
        "talkers": [{"address": "192.0.2.1", "bytes": 7500, "flows": 2}],
        "outputs": [
            {
                "output": "flows.jsonl",
                "written": 2,
                "waiting": 1,
                "dropped": {"enospc": 4},
                "error": "No space left on device",
            }
        ],
        **changed,
    }
