"""Runs the baselines on the same space and compares their hypervolumes."""

from typing import Any

import numpy as np

from etcpipe.tune import baselines
from etcpipe.tune.evaluation import Evaluator
from etcpipe.tune.finish import Tell
from etcpipe.tune.hypervolume import growth, hypervolume
from etcpipe.tune.priors import Prior
from etcpipe.tune.search import Measured, Strategy, front_of, objectives, run
from etcpipe.tune.space import Choice


def other_searches(
    evaluator: Evaluator, prior: Prior, measured: list[Measured], tell: Tell
) -> dict[str, list[Measured]]:
    """Return the measurements of the baselines with as many evaluations, by name."""
    known = {point.choice: point for point in measured}
    ways: dict[str, Strategy] = {
        "random": baselines.random(prior),
        "NSGA-II": baselines.nsga2(evaluator.space),
        "annealing": baselines.Annealing(prior, max(point.cost for point in measured)),
    }
    found = {}
    for name, way in ways.items():
        count = 0

        def evaluate(choice: Choice, name: str = name) -> Measured:
            nonlocal count
            tell(name, count, len(measured))
            count += 1
            if choice not in known:
                known[choice] = evaluator(choice)
            return known[choice]

        found[name] = run(way, evaluate, len(measured), evaluator.seed)
    return found


def curves(histories: dict[str, list[Measured]]) -> dict[str, dict[str, Any]]:
    """Return each search's points, and its share of the common hypervolume after each."""
    everything = objectives(point for points in histories.values() for point in points)
    low, span = everything.min(axis=0), np.maximum(np.ptp(everything, axis=0), 1e-9)
    reference = (1.0 + 1e-9, 1.0 + 1e-9)
    whole = hypervolume((everything - low) / span, reference)
    return {
        name: {
            "share": [
                round(float(share), 4)
                for share in growth((objectives(points) - low) / span, reference) / whole
            ],
            "front": [[round(1 - p.error, 4), round(p.cost, 9)] for p in front_of(points)],
            "points": [[round(1 - p.error, 4), round(p.cost, 9), p.choice.depth] for p in points],
        }
        for name, points in histories.items()
    }
