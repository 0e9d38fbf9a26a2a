"""Reports of running taps as Prometheus metrics; docs/outputs.md lists them.

Names end in their unit, counters in _total, and no label is an address or a flow.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from etcpipe import __version__
from etcpipe.kernel.first_packets import STAGE_OF
from etcpipe.outputs.tally import SPANS
from etcpipe.outputs.watch import told_apart

Report = dict[str, Any]

# The counters of a tap that pass by a packet for a reason, by the metric's `reason`.
PASSED = {
    "not_ip": "PACKETS_NOT_IP",
    "malformed": "PACKETS_MALFORMED",
    "fragment": "PACKETS_FRAGMENT",
    "table_full": "PACKETS_TABLE_FULL",
    "unsampled": "PACKETS_UNSAMPLED",
    "filtered": "PACKETS_FILTERED",
}

# Counters of a tap as they are: (metric, counter, meaning).
_COUNTERS = (
    ("packets", "PACKETS_SEEN", "Packets at the hooks."),
    ("tracked_packets", "PACKETS_TRACKED", "Packets of flows in the table."),
    ("first_packets", "PACKETS_FIRST_N", "Packets among the first N of their flow."),
    ("mirrored_packets", "PACKETS_CLONED", "First packets that were copied."),
    ("gathered_packets", "PACKETS_GATHERED", "First packets whose features the kernel gathered."),
    ("settled_packets", "PACKETS_SETTLED", "First packets not copied: their flow had its verdict."),
    ("policy_dropped_packets", "PACKETS_POLICY_DROP", "Packets dropped by the policy."),
    ("acted_packets", "PACKETS_ACTED", "Packets that a policy's action was done to."),
    ("flows_created", "FLOWS_CREATED", "Flows that began."),
)


def render(reports: Iterable[Report]) -> bytes:
    """Return metrics in Prometheus' text format."""
    return generate_latest(registry(lambda: reports))


def registry(reports: Callable[[], Iterable[Report]]) -> CollectorRegistry:
    """Return a registry that asks for the reports at each scrape."""
    made = CollectorRegistry()
    made.register(_Taps(reports))
    ProcessCollector(registry=made)
    return made


class _Taps:
    """Collector of prometheus_client: one scrape, all taps."""

    def __init__(self, reports: Callable[[], Iterable[Report]]):
        self._reports = reports

    def describe(self) -> list[Metric]:
        return []  # so that registering asks for no reports

    def collect(self) -> Iterator[Metric]:
        reports = told_apart(list(self._reports()))
        yield _gauge("build_info", "The version that runs.", ["version"], [([__version__], 1)])
        yield from _packets(reports)
        yield from _programs(reports)
        yield from _verdicts(reports)
        yield from _histograms(reports)
        yield from _outputs(reports)


def _packets(reports: list[Report]) -> Iterator[Metric]:
    for name, counter, text in _COUNTERS:
        values = [([r["device"]], r["counters"].get(counter, 0)) for r in reports]
        yield _counter(name, text, ["dev"], values)
    passed = [
        ([r["device"], reason], r["counters"].get(counter, 0))
        for r in reports
        for reason, counter in PASSED.items()
    ]
    yield _counter("passed_packets", "Packets passed untracked.", ["dev", "reason"], passed)
    lost = [
        ([r["device"], stage, counter.lower()], r["lost"].get(counter, 0))
        for r in reports
        for counter, stage in STAGE_OF.items()
    ]
    text = "First packets that never reached the model."
    yield _counter("dropped_packets", text, ["dev", "stage", "reason"], lost)
    ended = [([r["device"], reason], n) for r in reports for reason, n in r["ended"].items()]
    table = [([r["device"]], r["flows"]) for r in reports if r["flows"] is not None]
    yield _gauge("flows", "Flows in the table, as of the sweeper's last round.", ["dev"], table)
    yield _counter("flows_ended", "Flows that left the table.", ["dev", "reason"], ended)


def _programs(reports: list[Report]) -> Iterator[Metric]:
    """Yield what the kernel programs cost, where the kernel measures that."""
    counted = [
        ([r["device"], name], run) for r in reports for name, run in r.get("programs", {}).items()
    ]
    if counted:
        labels = ["dev", "program"]
        seconds = [(of, run["ns"] / 1e9) for of, run in counted]
        yield _counter("bpf_run_seconds", "Time in a program in the kernel.", labels, seconds)
        runs = [(of, run["runs"]) for of, run in counted]
        yield _counter("bpf_runs", "Runs of a program in the kernel.", labels, runs)


def _verdicts(reports: list[Report]) -> Iterator[Metric]:
    classes = [([r["device"], name], n) for r in reports for name, n in r["verdicts"].items()]
    yield _counter("verdicts", "Flows judged, by class.", ["dev", "class"], classes)
    sources = [([r["device"], name], n) for r in reports for name, n in r["sources"].items()]
    text = "Flows judged, by how the verdict came about."
    yield _counter("verdicts_by_source", text, ["dev", "source"], sources)
    stages = [([r["device"], name], n) for r in reports for name, n in r["stages"].items()]
    text = "Flows judged, by the stage of the cascade that decided."
    yield _counter("verdicts_by_stage", text, ["dev", "stage"], stages)
    events = [([r["device"], name], n) for r in reports for name, n in r["events"].items()]
    text = "Verdicts by kind: one a flow, and early ones that another one followed."
    yield _counter("verdict_events", text, ["dev", "event"], events)
    models = [
        ([r["device"], *(r["model"][key] for key in ("name", "digest", "engine"))], 1)
        for r in reports
    ]
    labels = ["dev", "model", "version", "engine"]
    yield _gauge("model_info", "The model that judges, and what runs it.", labels, models)
    since = [([r["device"]], r["since"]) for r in reports]
    yield _gauge("start_time_seconds", "Unix time of the attach.", ["dev"], since)


def _histograms(reports: list[Report]) -> Iterator[Metric]:
    stages = HistogramMetricFamily(
        "etcpipe_stage_duration_seconds",
        "Where the time to a verdict went: wait for packets, queue, infer.",
        labels=["dev", "stage"],
    )
    for report in reports:
        for name in SPANS:
            _add(stages, [report["device"], name], report["latency_s"][name])
    yield stages
    for name, text, pick in (
        (
            "verdict_latency_seconds",
            "From a flow's first counted packet to its verdict.",
            lambda report: report["latency_s"]["total"],
        ),
        (
            "verdict_probability",
            "Calibrated probability of verdicts.",
            lambda report: report["probability"],
        ),
        ("batch_flows", "Flows that the model judged at once.", lambda r: r["batch_flows"]),
    ):
        family = HistogramMetricFamily(f"etcpipe_{name}", text, labels=["dev"])
        for report in reports:
            _add(family, [report["device"]], pick(report))
        yield family


def _outputs(reports: list[Report]) -> Iterator[Metric]:
    written, dropped, waiting, up = [], [], [], []
    for report in reports:
        for output in report["outputs"]:
            labels = [report["device"], output["output"]]
            written.append((labels, output["written"]))
            waiting.append((labels, output["waiting"]))
            up.append((labels, int(output["error"] is None)))
            dropped += [([*labels, reason], n) for reason, n in output["dropped"].items()]
    labels = ["dev", "output"]
    yield _counter("output_events", "Events that an output wrote.", labels, written)
    yield _counter(
        "output_dropped_events", "Events an output let go.", [*labels, "reason"], dropped
    )
    yield _gauge("output_waiting_events", "Events that wait for an output.", labels, waiting)
    yield _gauge("output_up", "1: the output takes what comes.", labels, up)


Values = Sequence[tuple[Sequence[str], float]]


def _counter(name: str, text: str, labels: list[str], values: Values) -> Metric:
    return _filled(CounterMetricFamily(f"etcpipe_{name}", text, labels=labels), values)


def _gauge(name: str, text: str, labels: list[str], values: Values) -> Metric:
    return _filled(GaugeMetricFamily(f"etcpipe_{name}", text, labels=labels), values)


def _filled(family: Any, values: Values) -> Metric:
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _add(family: HistogramMetricFamily, labels: list[str], histogram: dict[str, Any]) -> None:
    bounds = [*map(_bound, histogram["bounds"]), "+Inf"]
    buckets = list(zip(bounds, histogram["counts"], strict=True))
    family.add_metric(labels, buckets, histogram["sum"])


def _bound(value: float) -> str:
    return repr(float(value))
