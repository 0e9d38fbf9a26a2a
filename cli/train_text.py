"""What `etcpipe train` prints for people, and `etcpipe model show` of it."""

from pathlib import Path
from typing import TYPE_CHECKING

from etcpipe.cli import families_text

if TYPE_CHECKING:
    from etcpipe.training.train import Result


def as_text(report: dict) -> str:
    """Return the scores of a model as a table for people."""
    low, high = report["macro_f1_interval"]
    lines = [
        f"{report['flows']} flows of {report['captures']} captures, "
        f"{report['folds']} folds by {report.get('split', 'capture')}; all scores on flows that "
        "were held out",
        f"macro-F1 {report['macro_f1']:.3f} ({low:.3f} to {high:.3f}), "
        f"accuracy {report['accuracy']:.3f}, calibration error {report['calibration_error']:.3f}",
        "",
        *_class_lines(report),
        "",
        *_baseline_lines(report),
    ]
    for i, load in enumerate(report.get("experts", ())):
        lines.append(
            f"experts of layer {i + 1}: {len(load['load'])}, {load['dead']} of them dead, "
            f"variation of load {load['variation']:.2f}"
        )
    if report["shortcut"]:
        lines.append("  ports, TTL or window would tell the class here: keep them masked")
    unknown = report["unknown"]
    if unknown["strange_refused"] is not None:
        lines.append(
            f"unknown below {unknown['threshold']:.3f}: keeps {unknown['right_kept']:.1%} of right "
            f"verdicts, refuses {unknown['strange_refused']:.1%} of classes never seen"
        )
    lines += families_text.as_text(report.get("families"))
    return "\n".join(lines)


def _class_lines(report: dict) -> list[str]:
    lines = [f"{'class':<20}{'flows':>7}{'captures':>10}{'F1':>8}   confused with"]
    names = list(report["classes"])
    for i, (name, one) in enumerate(report["classes"].items()):
        said = report["confusion"][i]
        wrong = sorted((j for j in range(len(names)) if j != i and said[j]), key=lambda j: -said[j])
        confused = ", ".join(f"{names[j]} {said[j]}" for j in wrong[:3])
        row = f"{name:<20}{one['flows']:>7}{one['captures']:>10}{one['f1']:>8.3f}   {confused}"
        lines.append(row.rstrip())
    return lines


def _baseline_lines(report: dict) -> list[str]:
    base = report["baselines"]
    lines = [
        f"baselines (macro-F1): majority {base['majority']:.3f}, k-NN {base['knn']:.3f}, "
        f"hidden fields alone {base['ids_only']:.3f}"
    ]
    if "lightgbm" in base:
        above, low, high = report["above_baselines"]["lightgbm"]
        lines.append(
            f"trees on the same folds: {base['lightgbm']:.3f}; this model minus these: "
            f"{above:+.3f} ({low:+.3f} to {high:+.3f})"
        )
    if "frozen" in base:
        lines.append(
            f"pre-trained: tuned {report['macro_f1']:.3f}, frozen {base['frozen']:.3f}, "
            f"begun at random {base['random_init']:.3f}"
        )
    return lines


def cost_line(output: Path, result: "Result") -> str:
    """Return what a model file takes, and its answers."""
    kind = "trees" if "trees" in result.report else "parameters"
    return (
        f"{output}: {len(result.model) / 1e3:.0f} kB, {result.report[kind]} {kind}, "
        f"{result.us_per_flow:.1f} us a flow on one core"
    )
