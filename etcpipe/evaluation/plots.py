"""Plots of an evaluation, as PNG files."""

from pathlib import Path
from typing import Any

import numpy as np

from etcpipe import figures


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write confusion.png, reliability.png and plots of other measurements; return their paths.

    Args:
        report: of model_eval.evaluate_model(), with "depths", "occlusion", "shape" beside.

    Raises:
        UnsupportedError: matplotlib is not installed.
        OutputError: the folder cannot be written.
    """
    drawings = {"confusion": _confusion, "reliability": _reliability}
    for name, drawing in (("depths", _depths), ("occlusion", _occlusion), ("shape", _shape)):
        if report.get(name):
            drawings[name] = drawing
    return figures.save(folder, report, drawings)


def _confusion(axes: Any, report: dict[str, Any]) -> None:
    """Rows are true classes; each adds up to 1."""
    counts, names = np.array(report["confusion"]), list(report["classes"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="said", ylabel="true", title=f"macro-F1 {report['macro_f1']:.3f}")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)


def _reliability(axes: Any, report: dict[str, Any]) -> None:
    bins = report["reliability"]
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    axes.plot([one["probability"] for one in bins], [one["right"] for one in bins], marker="o")
    axes.set(
        xlabel="probability of the best class",
        ylabel="share that is right",
        title=f"calibration error {report['calibration_error']:.3f}",
    )


def _depths(axes: Any, report: dict[str, Any]) -> None:
    depths, scores = list(report["depths"]), list(report["depths"].values())
    low, high = zip(*(one["macro_f1_interval"] for one in scores), strict=True)
    axes.fill_between(depths, low, high, alpha=0.2)
    axes.plot(depths, [one["macro_f1"] for one in scores], marker="o")
    axes.set(xlabel="packets", ylabel="macro-F1 (95 % interval by captures)")


def _occlusion(axes: Any, report: dict[str, Any]) -> None:
    names, parts = list(report["occlusion"]), list(report["occlusion"].values())
    drops = np.array([one["drop"] for one in parts])
    ends = np.array([one["drop_interval"] for one in parts])
    errors = np.maximum(np.stack([drops - ends[:, 0], ends[:, 1] - drops]), 0)
    axes.barh(names, drops, xerr=errors)
    axes.invert_yaxis()
    axes.set(xlabel="macro-F1 lost when this part tells nothing (95 % interval)")


def _shape(axes: Any, report: dict[str, Any]) -> None:
    found = report["shape"]
    names = list(found["shapings"])
    place = np.arange(len(names))
    for i, column in enumerate(("clean_trained", "augmented", "adaptive")):
        scores = [one[column]["macro_f1"] for one in found["shapings"].values()]
        axes.barh(place + (i - 1) * 0.27, scores, 0.27, label=column.replace("_", " "))
    axes.axvline(found["clean"]["macro_f1"], linestyle=":", color="grey", label="not shaped")
    axes.set_yticks(place, names)
    axes.invert_yaxis()
    axes.set(xlabel="macro-F1")
    axes.legend()
