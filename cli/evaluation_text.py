"""What `etcpipe eval` prints for people."""

from collections.abc import Callable
from typing import Any

from etcpipe.cli import families_text


def as_text(report: dict[str, Any]) -> str:
    """Return the scores as tables."""
    lines = [*_head(report), "", *_classes(report), "", *_unknown(report)]
    for name, section in _SECTIONS.items():
        if name in report:
            lines += ["", *section(report[name])]
    return "\n".join(lines)


def _head(report: dict[str, Any]) -> list[str]:
    low, high = report["macro_f1_interval"]
    return [
        f"{report['model']} on {report['flows']} flows of {report['captures']} captures",
        f"macro-F1 {report['macro_f1']:.3f} ({low:.3f} to {high:.3f}), weighted "
        f"{report['weighted_f1']:.3f}, accuracy {report['accuracy']:.3f}, balanced "
        f"{report['balanced_accuracy']:.3f}, calibration error {report['calibration_error']:.3f}",
    ]


def _classes(report: dict[str, Any]) -> list[str]:
    lines = [f"{'class':<20}{'flows':>7}{'captures':>10}{'precision':>11}{'recall':>8}{'F1':>8}"]
    for name, one in report["classes"].items():
        row = f"{name:<20}{one['flows']:>7}{one['captures']:>10}"
        if one["flows"]:  # else nothing was there to be right about, and no score counts it
            row += f"{one['precision']:>11.3f}{one['recall']:>8.3f}{one['f1']:>8.3f}"
        lines.append(row)
    return lines


def _unknown(report: dict[str, Any]) -> list[str]:
    unknown = report["unknown"]
    lines = [f"unknown below {unknown['threshold']:.3f}: {unknown['known_refused']:.1%} of flows"]
    if unknown["strange_flows"]:
        lines.append(
            f"classes that it does not know ({', '.join(report['strange_classes'])}): "
            f"{unknown['strange_flows']} flows, {unknown['strange_refused']:.1%} refused, "
            f"area under ROC {unknown['area_under_roc']:.3f}"
        )
    return [*lines, *families_text.as_text(report.get("families"))]


def _depths(found: dict[int, dict[str, Any]]) -> list[str]:
    return [f"{depth:>3} packets: macro-F1 {_with_interval(one)}" for depth, one in found.items()]


def _occlusion(found: dict[str, dict[str, Any]]) -> list[str]:
    lines = [f"{'without':<20}{'macro-F1':>9}{'drop':>8}  interval"]
    for name, one in found.items():
        low, high = one["drop_interval"]
        lines.append(
            f"{name:<20}{one['macro_f1']:>9.3f}{one['drop']:>8.3f}  {low:.3f} to {high:.3f}"
        )
    return lines


def _open_set(found: dict[str, Any]) -> list[str]:
    lines = [f"classes left out, one by one ({len(found['without'])}):"]
    for name, area in found["area_under_roc"].items():
        lines.append(f"  {name:<20} area under ROC {area:.3f}, FPR95 {found['fpr95'][name]:.3f}")
    return lines


def _few_shot(found: dict[int, dict[str, Any]]) -> list[str]:
    return [
        f"{shots:>3} flows a class: macro-F1 {one['macro_f1']:.3f} +- {one['deviation']:.3f}, "
        f"nearest neighbour {one['nearest_neighbour']:.3f}"
        for shots, one in found.items()
    ]


def _shape(found: dict[str, Any]) -> list[str]:
    lines = [
        f"not shaped: macro-F1 {_with_interval(found['clean'])} by folds",
        f"{'shaping':<28}{'bytes':>8}{'time':>8}{'packets':>9}"
        f"{'model':>8}{'clean':>8}{'others':>8}{'same':>8}",
    ]
    for name, one in found["shapings"].items():
        cost = one["overhead"]
        f1 = [one[column]["macro_f1"] for column in ("clean_trained", "augmented", "adaptive")]
        lines.append(
            f"{name:<28}{cost['bytes']:>+8.0%}{cost['time']:>+8.0%}{cost['packets']:>+9.0%}"
            f"{one['model']:>8.3f}{f1[0]:>8.3f}{f1[1]:>8.3f}{f1[2]:>8.3f}"
        )
    return [
        *lines,
        "clean, others, same: what fits of other folds had learnt from, see docs/models.md",
    ]


def _with_interval(one: dict[str, Any]) -> str:
    low, high = one["macro_f1_interval"]
    return f"{one['macro_f1']:.3f} ({low:.3f} to {high:.3f})"


_SECTIONS: dict[str, Callable[[Any], list[str]]] = {
    "depths": _depths,
    "occlusion": _occlusion,
    "open_set": _open_set,
    "few_shot": _few_shot,
    "shape": _shape,
}
