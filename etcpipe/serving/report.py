"""A serve-bench as plain numbers, and as Markdown tables."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from etcpipe.cascade.report import milliseconds
from etcpipe.cascade.walk import EARLY_S
from etcpipe.serving.bench import Report, Run

PERCENTILES = (50, 99, 99.9)
# The goals of this project. ServeFlow (arXiv 2402.03694) reports 40.5 times on its data.
SPEEDUP_LEAST, EARLY_LEAST, EARLY_OF_ORACLE, F1_WITHIN = 40.5, 0.8, 0.9, 0.01
FLOWS_A_CORE, P99_AT_08_S, P99_OVERLOADED_S = 30_000, 0.005, 0.025
LABELS = {
    "cascade": "cascade",
    "wait": "wait for N, one slow model",
    "fast": "first stage alone",
    "slow": "last stage alone",
    "random": "random escalation",
    "oracle": "oracle",
}


def as_numbers(report: Report) -> dict[str, Any]:
    """Return all measurements, ready for JSON."""
    return {
        "flows": report.flows,
        "models": list(report.models),
        "depths": list(report.depths),
        "capacity": {
            name: {
                "median": float(np.median(all_)),
                "repeats": all_,
                "full_batches": report.full_speeds[name],
            }
            for name, all_ in report.capacities.items()
        },
        "macro_f1_lost": list(report.lost),
        "recorded": [_run(one) for one in report.recorded],
        "loaded": [_run(one) for one in report.loaded],
        "goals": [
            {"measure": what, "goal": goal, "measured": value, "met": met}
            for what, goal, value, met in goals(report)
        ],
    }


def as_markdown(report: Report) -> str:
    """Return the tables of a report."""
    head = f"{report.flows:,} flows; stages: {stages_of(report)}"
    parts = [f"**{title}**\n\n{_table(names, rows)}" for title, names, rows in tables(report)]
    return "\n\n".join([head, *parts]) + "\n"


def stages_of(report: Report) -> str:
    """Return the stages in one line."""
    pairs = zip(report.models, report.depths, strict=True)
    return " > ".join(f"{name} at {depth}" for name, depth in pairs)


def tables(report: Report) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, headers and rows of each table; the last one is of the goals."""
    capacities = [
        [
            LABELS[name],
            f"{np.median(all_):,.0f}",
            ", ".join(f"{one:,.0f}" for one in all_),
            f"{report.full_speeds[name]:,.0f}",
        ]
        for name, all_ in report.capacities.items()
    ]
    verdicts = [[*row, "met" if met else "not met"] for *row, met in goals(report)]
    return [
        ("Recorded gaps", _RECORDED, [_recorded_row(report, one) for one in report.recorded]),
        ("Cascade, by stage, recorded gaps", _STAGES, _stage_rows(report)),
        (
            "New flows a second that one processor sustains",
            ["system", "flows/s", "repeats", "in full batches"],
            capacities,
        ),
        (
            "Load, of the capacity just before; queue + inference",
            _LOADED,
            [_loaded_row(one) for one in report.loaded],
        ),
        ("Goals", ["measure", "goal", "measured", "verdict"], verdicts),
    ]


def goals(report: Report) -> list[tuple[str, str, str, bool]]:
    """Return measure, goal, measured value, and whether the goal is met."""
    ours, oracle = report.run("cascade"), report.run("oracle")
    lost, low, high = report.lost
    return [
        (
            f"answered within {EARLY_S * 1e3:.0f} ms of the first packet",
            f">= {EARLY_LEAST:.0%}, or {EARLY_OF_ORACLE} of the oracle's",
            f"{ours.early:.1%}; {report.of_oracle:.2f} of {oracle.early:.1%}",
            ours.early >= EARLY_LEAST or report.of_oracle >= EARLY_OF_ORACLE,
        ),
        (
            "median speed-up over waiting for N",
            f">= {SPEEDUP_LEAST}",
            f"{report.speed_up:.1f}",
            report.speed_up >= SPEEDUP_LEAST,
        ),
        (
            "macro-F1 below the slow model",
            f"<= {F1_WITHIN}",
            f"{lost:.3f} ({low:.3f} to {high:.3f})",
            lost <= F1_WITHIN,
        ),
        (
            "new flows/s a core",
            f">= {FLOWS_A_CORE:,}",
            f"{report.capacity:,.0f}",
            report.capacity >= FLOWS_A_CORE,
        ),
        *_load_goals(report),
    ]


def _load_goals(report: Report) -> Iterator[tuple[str, str, str, bool]]:
    for one in report.loaded:
        p99 = _p99(one.serving_s)
        if one.load in (0.8, 1.5):
            least = P99_AT_08_S if one.load == 0.8 else P99_OVERLOADED_S
            yield (
                f"p99 of queue + inference, {one.arrivals}, load {one.load:g}",
                f"< {milliseconds(least)}",
                milliseconds(p99),
                p99 < least,
            )


def _p99(values: np.ndarray) -> float:
    return float(np.percentile(values, 99)) if len(values) else np.nan


def _run(one: Run) -> dict[str, Any]:
    def spread(values: np.ndarray) -> dict[str, float]:
        return {f"p{p:g}": float(np.percentile(values, p)) for p in PERCENTILES}

    return {
        "system": one.system,
        "arrivals": one.arrivals,
        "load": one.load,
        "rate": one.rate,
        "served_per_s": one.served,
        "macro_f1": one.macro_f1,
        "accuracy": one.accuracy,
        "macro_f1_by_stage": one.f1_by_stage,
        "within_16_ms": one.early,
        "shares": one.shares,
        "latency_s": spread(one.latency_s),
        "wait_s": spread(one.wait_s),
        "queue_s": spread(one.queue_s),
        "infer_s": spread(one.infer_s),
        "serving_s": spread(one.serving_s),
        "counters": one.counters,
        "pace": one.pace,
        "calm": {"share": len(one.calm_s) / len(one.said), "p99_s": _p99(one.calm_s)},
    }


_RECORDED = ["system", "macro-F1", "accuracy", "≤ 16 ms", "median", "p99", "p99.9", "speed-up"]
_RECORDED += ["wait", "queue", "inference"]


def _recorded_row(report: Report, one: Run) -> list[str]:
    latency = np.percentile(one.latency_s, PERCENTILES)
    slowest = float(np.median(report.run("wait").latency_s))
    return [
        LABELS[one.system],
        f"{one.macro_f1:.3f}",
        f"{one.accuracy:.3f}",
        f"{one.early:.1%}",
        *map(milliseconds, latency),
        f"{slowest / latency[0]:.1f}",
        *(milliseconds(float(np.median(part))) for part in (one.wait_s, one.queue_s, one.infer_s)),
    ]


_STAGES = ["", "answered", "macro-F1 of these"]


def _stage_rows(report: Report) -> list[list[str]]:
    ours = report.run("cascade")
    names = zip(report.models, report.depths, ours.f1_by_stage, ours.by_stage, strict=True)
    return [
        [f"{model}, {depth} packets", f"{share:.1%}", f"{f1:.3f}"]
        for model, depth, f1, share in names
    ]


_LOADED = ["arrivals", "load", "flows/s", "served/s", "p50", "p99", "p99.9", "calm p99", "calm"]
_LOADED += ["pace", "early", "escalated", "degraded", "timed out", "macro-F1"]


def _loaded_row(one: Run) -> list[str]:
    return [
        one.arrivals,
        f"{one.load:g}",
        f"{one.rate:,.0f}",
        f"{one.served:,.0f}",
        *map(milliseconds, np.percentile(one.serving_s, PERCENTILES)),
        milliseconds(_p99(one.calm_s)),
        f"{len(one.calm_s) / len(one.said):.0%}",
        f"{one.pace:.2f}",
        *(f"{one.shares[name]:.1%}" for name in ("early", "escalated", "degraded", "timed_out")),
        f"{one.macro_f1:.3f}",
    ]


def _table(headers: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([line(headers), rule, *map(line, rows)])
