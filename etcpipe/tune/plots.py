"""Plots of a front, as PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from etcpipe import figures
from etcpipe.tune.front import Front

COSTS = {"cpu_ns": "processor time a flow, ns", "latency_s": "first packet to verdict, s"}


def draw(front: Front, folder: Path) -> list[Path]:
    """Write front.png, hypervolume.png, depth.png and features.png; return their paths.

    Raises:
        UnsupportedError: matplotlib is not installed.
        OutputError: the folder cannot be written.
    """
    drawings = {
        "front": _front,
        "hypervolume": _hypervolume,
        "depth": _depth,
        "features": _features,
    }
    return figures.save(folder, front, drawings)


def _front(axes: Any, front: Front) -> None:
    """F1 on the search's captures against cost, beside the points of the rules."""
    points = [(one.f1_search or one.f1, getattr(one, front.cost)) for one in front.points]
    axes.step(*_columns(points), where="post", marker="o", label="etcpipe tune")
    for name, search in front.about.get("searches", {}).items():
        if name != "etcpipe":
            axes.step(*_columns(search["front"]), where="post", alpha=0.6, label=name)
    for one in front.baselines:
        axes.plot(one[front.cost], one["f1_search"], "x", color="black")
        axes.annotate(f" {one['name']} {one['at']}", (one[front.cost], one["f1_search"]))
    for mark, symbol in (("knee", "s"), ("chosen", "*")):
        marked = [one for one in front.points if getattr(one, mark)]
        values = [(one.f1_search or one.f1, getattr(one, front.cost)) for one in marked]
        if marked:
            axes.plot(*_columns(values), symbol, markersize=12, fillstyle="none", label=mark)
    if limit := front.limits.get(front.cost):
        axes.axvline(limit, linestyle=":", color="grey", label="limit")
    axes.set(xscale="log", xlabel=COSTS[front.cost], ylabel="macro-F1 on held-out captures")
    axes.legend()


def _columns(points: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Return costs and F1 of (F1, cost) pairs, cheapest first."""
    ordered = sorted(points, key=lambda one: one[1])
    return [one[1] for one in ordered], [one[0] for one in ordered]


def _hypervolume(axes: Any, front: Front) -> None:
    for name, search in front.about["searches"].items():
        share = search["share"]
        axes.plot(range(1, len(share) + 1), share, label=name)
    axes.set(xlabel="evaluations", ylabel="share of the hypervolume of all", ylim=(0, 1.02))
    axes.legend()


def draw_bands(shares: dict[str, np.ndarray], file: Path) -> None:
    """Plot the hypervolume over evaluations: mean over seeds, band from 10 to 90 %.

    Args:
        shares: (seeds, evaluations) by name.

    Raises:
        UnsupportedError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    figures.save(file.parent, shares, {file.stem: _bands})


def _bands(axes: Any, shares: dict[str, np.ndarray]) -> None:
    for name, share in shares.items():
        evaluations = range(1, share.shape[1] + 1)
        low, high = np.quantile(share, [0.1, 0.9], axis=0)
        axes.fill_between(evaluations, low, high, alpha=0.15)
        axes.plot(evaluations, share.mean(axis=0), label=name)
    axes.set(xlabel="evaluations", ylabel="share of the true hypervolume", ylim=(0.4, 1.01))
    axes.legend()


def _depth(axes: Any, front: Front) -> None:
    """Every point that was measured, and the best of each depth."""
    points = np.array(front.about["searches"]["etcpipe"]["points"])
    axes.plot(points[:, 2], points[:, 0], ".", alpha=0.5, label="measured")
    depths = np.unique(points[:, 2])
    best = [points[points[:, 2] == depth, 0].max() for depth in depths]
    axes.plot(depths, best, marker="o", fillstyle="none", label="best of a depth")
    axes.set(xlabel="packets", ylabel="macro-F1 on held-out captures")
    axes.legend()


def _features(axes: Any, front: Front) -> None:
    """The columns of the front's points: most expensive point on top, most used column first."""
    use = {name: 0 for point in front.points for name in point.features}
    for point in front.points:
        for name in point.features:
            use[name] += 1
    names = sorted(use, key=lambda name: (-use[name], name))
    grid = np.array([[name in point.features for name in names] for point in front.points])
    axes.imshow(grid, cmap="Blues", aspect="auto", origin="lower", vmin=0, vmax=1.3)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    labels = [f"#{point.id}, {point.depth} packets" for point in front.points]
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
