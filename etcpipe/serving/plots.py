"""Plots of a serve-bench, as PNG files."""

from pathlib import Path
from typing import Any

import numpy as np

from etcpipe import figures
from etcpipe.serving.bench import PROCESSES, Report
from etcpipe.serving.report import LABELS

SHARES = ("early", "escalated", "degraded")
SHORTEST_MS = 1e-3


def draw(report: Report, folder: Path) -> list[Path]:
    """Write latency.png, split.png, load.png and shares.png; return their paths.

    Raises:
        UnsupportedError: matplotlib is not installed.
        OutputError: the folder cannot be written.
    """
    drawings = {"latency": _latency, "split": _split, "load": _load, "shares": _shares}
    return figures.save(folder, report, drawings)


def _cumulative(axes: Any, values_s: np.ndarray, label: str, **style: Any) -> None:
    ordered = np.sort(np.maximum(values_s * 1e3, SHORTEST_MS))
    axes.plot(ordered, np.arange(1, len(ordered) + 1) / len(ordered), label=label, **style)


def _latency(axes: Any, report: Report) -> None:
    for one in report.recorded:
        _cumulative(axes, one.latency_s, LABELS[one.system])
    axes.axvline(16, color="grey", linestyle=":")
    axes.set(xscale="log", xlabel="ms from the first packet to the answer", ylabel="share of flows")
    axes.legend()


def _split(axes: Any, report: Report) -> None:
    ours = report.run("cascade")
    parts = {"wait for packets": ours.wait_s, "queue": ours.queue_s, "inference": ours.infer_s}
    for name, values in parts.items():
        _cumulative(axes, values, name)
    _cumulative(axes, ours.latency_s, "all", color="black", linestyle="--")
    axes.set(xscale="log", xlabel="ms, cascade, recorded gaps", ylabel="share of flows")
    axes.legend()


def _load(axes: Any, report: Report) -> None:
    for process in PROCESSES:
        runs = [one for one in report.loaded if one.arrivals == process]
        for percentile, style in ((50, ":"), (99, "-")):
            values = [np.percentile(one.serving_s, percentile) * 1e3 for one in runs]
            loads = [one.load for one in runs]
            axes.plot(loads, values, style, marker="o", label=f"{process}, p{percentile}")
    axes.set(yscale="log", xlabel="load (of capacity)", ylabel="ms, queue + inference")
    axes.legend()


def _shares(axes: Any, report: Report) -> None:
    runs = [one for one in report.loaded if one.arrivals == next(iter(PROCESSES))]
    below = np.zeros(len(runs))
    at = np.arange(len(runs))
    for name in SHARES:
        values = np.array([one.shares[name] for one in runs])
        axes.bar(at, values, bottom=below, label=name)
        below += values
    axes.plot(at, [one.macro_f1 for one in runs], "k--", marker="o", label="macro-F1")
    axes.set_xticks(at, [f"{one.load:g}" for one in runs])
    axes.set(xlabel="load (of capacity), Poisson", ylabel="share of flows")
    axes.legend(loc="lower left")
