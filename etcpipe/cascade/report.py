"""A fitted cascade as plain numbers, and as text for people."""

from typing import Any

from etcpipe.cascade.calibrate import AREA_LEAST, Separation
from etcpipe.cascade.choose import Plan
from etcpipe.cascade.fit import Result, StageReport
from etcpipe.cascade.walk import EARLY_S, Figures
from etcpipe.outputs.table import Table

FRONT_MAX = 12
CURVE_SHOWN = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
HEADERS = [">F1", ">median", f">≤ {EARLY_S * 1e3:.0f} ms", ">last stage", ">us/flow"]

_UNSURE = (
    "no cascade surely keeps the F1 of the model that waits longest: this one may lose {:.3f}; "
    "give more captures or deeper stages, or allow that with --slack"
)


def as_numbers(result: Result) -> dict[str, Any]:
    """Return everything that was measured, ready for JSON."""
    return {
        "flows": {"chosen_on": result.flows[0], "tested_on": result.flows[1]},
        "front": [_plan(result, plan) for plan in result.front],
        "chosen": _plan(result, result.choice.plan)
        | {
            "f1_lead_interval": [result.choice.low, result.choice.high],
            "keeps_f1": result.choice.holds,
        },
        "test": {name: vars(one) | {} for name, one in result.test.items()},
        "f1_lead": list(result.lead),
        "stages": [_stage(one) for one in result.stages],
        "no_better_than_random": [str(result.stages[i].candidate) for i in result.weak],
    }


def as_text(result: Result) -> str:
    """Return the choices, the chosen cascade and its figures as text."""
    lines = [f"choices on {sum(result.flows)} flows; * is the one taken", *_front(result), ""]
    lines += [
        f"chosen the same way on {result.flows[0]} flows, on {result.flows[1]} of other captures:",
        *_test(result),
        _lead("cascade above the model that waits longest, macro-F1", *result.lead),
        "",
        *_stages(result),
    ]
    for one in result.stages:
        if one.curves:
            lines += ["", *_curves(one)]
    return "\n".join(lines)


def warnings(result: Result) -> list[str]:
    """Return warnings to read before using the cascade."""
    choice = result.choice
    unsure = [] if choice.holds else [_UNSURE.format(-choice.low)]
    return unsure + [
        f"{result.stages[i].candidate}: its uncertainty tells errors no better than random "
        f"(area {result.stages[i].separation['least_confidence'].area:.2f}, below {AREA_LEAST} "
        "or not surely above 0.5): escalating at random would do as well"
        for i in result.weak
    ]


def _plan(result: Result, plan: Plan) -> dict[str, Any]:
    chain = [str(result.made[i].candidate) for i in plan.chain]
    return {"stages": chain, "passed_on": list(plan.figures.passed_on), **vars(plan.figures)}


def _stage(one: StageReport) -> dict[str, Any]:
    rule = one.settled.rule
    return {
        "model": one.candidate.model,
        "packets": one.candidate.packets,
        "us_per_flow": one.candidate.us,
        "temperature": one.settled.temperature,
        "rule": None if rule is None else vars(rule) | {"classes": dict(rule.classes)},
        "reached": one.reached,
        "answered": one.answered,
        "accuracy": one.accuracy,
        "macro_f1_alone": one.macro_f1,
        "area_error_uncertainty": {
            name: [found.area, found.low, found.high] for name, found in one.separation.items()
        },
        "curves": vars(one.curves) if one.curves else None,
    }


def _figures(one: Figures) -> list[str]:
    return [
        f"{one.macro_f1:.3f}",
        milliseconds(one.median_s),
        f"{one.early:.1%}",
        f"{one.slow:.1%}",
        f"{one.us:.1f}",
    ]


def milliseconds(seconds: float) -> str:
    """Return a time with three significant digits."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def _front(result: Result) -> list[str]:
    step, taken = max(1, -(-len(result.front) // FRONT_MAX)), result.choice.plan
    shown = [plan for i, plan in enumerate(result.front) if i % step == 0 or plan == taken]
    if taken not in shown:  # the F1 of those before it is not as sure
        shown = sorted([*shown, taken], key=lambda plan: -plan.figures.macro_f1)
    rows = [
        [
            "*" if plan == taken else "",
            *_figures(plan.figures),
            " > ".join(str(result.made[i].candidate) for i in plan.chain),
            ", ".join(f"{share:.0%}" for share in plan.figures.passed_on) or "-",
        ]
        for plan in shown
    ]
    return Table(["", *HEADERS, "stages", ">passed on"]).lines(rows)


def _lead(what: str, mean: float, low: float, high: float) -> str:
    return f"{what}: {mean:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"


def _test(result: Result) -> list[str]:
    rows = [[name, *_figures(one)] for name, one in result.test.items()]
    return Table(["", *HEADERS]).lines(rows)


def _stages(result: Result) -> list[str]:
    table = Table(["stage", ">reached", ">answers", ">right", ">alone F1", ">area", "interval"])
    rows = []
    for one in result.stages:
        found = one.separation["least_confidence"]
        rows.append(
            [
                str(one.candidate),
                f"{one.reached:.1%}",
                f"{one.answered:.1%}",
                f"{one.accuracy:.3f}",
                f"{one.macro_f1:.3f}",
                *_area(found),
            ]
        )
    return [*table.lines(rows), "area: under the ROC curve of error against uncertainty"]


def _area(found: Separation) -> list[str]:
    return [f"{found.area:.3f}", f"{found.low:.3f} to {found.high:.3f}"]


def _curves(one: StageReport) -> list[str]:
    assert one.curves is not None
    shown = [i for i, share in enumerate(one.curves.shares) if round(share, 2) in CURVE_SHOWN]
    table = Table([f"{one.candidate} passes on", *(f">{one.curves.shares[i]:.0%}" for i in shown)])
    rows = [
        [name, *(f"{values[i]:.3f}" for i in shown)]
        for name, values in (
            ("F1, the unsure ones", one.curves.ours),
            ("F1, random ones", one.curves.chance),
            ("F1, an oracle's", one.curves.oracle),
        )
    ]
    return table.lines(rows)
