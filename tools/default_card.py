"""The card of the model that ships, from what its training measured."""

import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from default_cascade import Answers, Stages

from etcpipe.cascade.choose import Settled
from etcpipe.cascade.rows import DepthRows, read_at_depths
from etcpipe.dataset import STATS, Dataset, bundle_recordings
from etcpipe.evaluation import evaluate
from etcpipe.training import report as train_report
from etcpipe.training import train, trees
from etcpipe.verdict import UNKNOWN

TEMPLATE = Path(__file__).with_name("default_card.md.in")

# nDPI's names of public traffic that is clearly of a lab kind. What could be several kinds
# (SSH, TLS to some site) is left out; the lab's Shadowsocks is whole flows, the public one
# only their first 784 bytes, so that is left out too.
SAME_KIND = {
    "OpenVPN": "openvpn",
    "WireGuard": "wireguard",
    "QUIC": "quic_h3",
    "IMAPS": "imaps",
    "TLS.DoH_DoT": "dns_encrypted",
}


@dataclass(frozen=True)
class Facts:
    """What there is to tell.

    Attributes:
        results: by depth.
        settled: the stages that ship, chosen by all flows.
        answers: to held-out flows, by stages that other captures chose.
        systems: whose programs the lab ran, for the card.
        source: (flows,) int, which of the systems; len(systems): a public capture.
    """

    rows: DepthRows
    results: dict[int, train.Result]
    stages: Stages
    settled: list[Settled]
    answers: Answers
    systems: list[str]
    source: np.ndarray
    seed: int

    @property
    def dataset(self) -> Dataset:
        """The flows at the greatest depth."""
        return self.rows.deepest

    @property
    def is_lab(self) -> np.ndarray:
        """(flows,) bool."""
        return self.source < len(self.systems)

    @property
    def sources(self) -> list[tuple[str, np.ndarray]]:
        """The names of those that there are, and which flows (bool) are theirs."""
        named = enumerate([*self.systems, "public captures"])
        by_name = [(name, self.source == i) for i, name in named]
        return [(name, chosen) for name, chosen in by_name if chosen.any()]

    @property
    def right(self) -> np.ndarray:
        """(flows,) bool, before any is refused."""
        return self.answers.said == self.dataset.label


def card(facts: Facts, bundle: Path | None) -> str:
    """Return the model card, Markdown."""
    dataset, classes = facts.dataset, facts.dataset.classes
    report = train_report.on_classes(dataset, facts.answers.said, facts.seed)
    last = facts.results[max(facts.results)].report
    waits_s = facts.stages.waits_s(facts.answers)
    probability = facts.answers.probability
    filled = {
        **{key: report[key] for key in ("macro_f1", "accuracy")},
        **last["baselines"],
        **_on_unknown(facts),
        **_on_families(facts),
        "folds": last["folds"],
        "low": report["macro_f1_interval"][0],
        "high": report["macro_f1_interval"][1],
        "calibration_error": evaluate.calibration_error(probability, facts.right),
        "machine": platform.machine(),
        "digest": dataset.digest(),
        "median_ms": float(np.median(waits_s)) * 1e3,
        "mean_s": float(waits_s.mean()),
        "threshold": facts.stages.models[-1].threshold,
        "by_stage": _by_stage(facts),
        "by_source": _by_source(facts),
        "depths": " | ".join(f"at {depth}" for depth in facts.results),
        "ruler": " | ".join("---:" for _ in facts.results),
        "by_class": _by_class(facts, report["classes"]),
        "confusion": _confusion(classes, report["confusion"]),
        "gains": ", ".join(f"{name} {gain}" for name, gain in last["columns_by_gain"].items()),
        "on_others": _on_others(facts),
        "on_public": _on_public(facts),
        "on_public_tls": _on_public_tls(facts, bundle) if bundle else "",
    }
    return TEMPLATE.read_text().format(**filled)


def _on_unknown(facts: Facts) -> dict[str, float]:
    """Return what refusing costs and gives; a class that is "unknown" names nothing."""
    refused = facts.answers.refused
    named = facts.answers.said != _place_of_unknown(facts)
    strangers = facts.stages.strangers(facts.settled)
    return {
        "right_kept": float((~refused)[facts.right & named].mean()),
        "wrong_refused": float(refused[~facts.right & named].mean()),
        "strange_refused": float(strangers.refused.mean()),
    }


def _on_families(facts: Facts) -> dict[str, Any]:
    """Return how often a class, a family and nothing is said, and how often each is right."""
    model, answers, label = facts.stages.models[-1], facts.answers, facts.dataset.label
    told = answers.family >= 0
    own = model.family_of[label] == answers.family
    strangers = facts.stages.strangers(facts.settled)
    theirs = model.family_of[facts.results[max(facts.results)].judged.strange_label]
    rows = []
    for source, chosen in facts.sources:
        parts = {
            "a class": (~answers.refused, facts.right),
            "a family": (told, own),
            "unknown": (answers.refused & ~told, label == _place_of_unknown(facts)),
        }
        for name, (part, right) in parts.items():
            here = part & chosen
            share = f"{right[here].mean():.1%}" if here.any() else ""
            rows.append([source, name, int(here.sum()), f"{here.sum() / chosen.sum():.1%}", share])
    return {
        "families": "\n".join(
            f"- `{name}`: {', '.join(of)}" for name, of in model.labels.families.items()
        ),
        "family_threshold": model.family_threshold,
        "by_level": _table(rows),
        "strange_families": int((strangers.family >= 0).sum()),
        "strange_wrong": int(((strangers.family >= 0) & (theirs != strangers.family)).sum()),
        "strange_flows": len(theirs),
    }


def _place_of_unknown(facts: Facts) -> int:
    classes = facts.dataset.classes
    return classes.index(UNKNOWN) if UNKNOWN in classes else -1


def _by_stage(facts: Facts) -> str:
    table = []
    for one in facts.settled:
        depth = list(facts.results)[one.candidate]
        here, result = facts.answers.packets == depth, facts.results[depth]
        sure = f"{one.rule.probability:.3f}" if one.rule else "answers all"
        share, right = f"{here.mean():.1%}", f"{facts.right[here].mean():.1%}"
        cost = f"{len(result.model) / 1e3:.0f} kB, {result.us_per_flow:.1f} us"
        alone = f"{result.report['macro_f1']:.3f}"
        table.append([depth, sure, share, right, alone, result.report["trees"], cost])
    return _table(table)


def _by_source(facts: Facts) -> str:
    """Return a table that tells the sources of flows apart, all held out."""
    rows, dataset = [], facts.dataset
    for name, chosen in facts.sources:
        label, said = dataset.label[chosen], facts.answers.said[chosen]
        confusion = evaluate.confusion_matrix(label, said, len(dataset.classes))
        captures = len(np.unique(dataset.capture[chosen]))
        f1, accuracy = evaluate.macro_f1(confusion), (label == said).mean()
        rows.append([name, captures, len(label), f"{f1:.3f}", f"{accuracy:.3f}"])
    return _table(rows)


def _by_class(facts: Facts, classes: dict[str, dict[str, Any]]) -> str:
    alone = [result.report["classes"] for result in facts.results.values()]
    return _table(
        [
            name,
            one["flows"],
            one["captures"],
            *(f"{scores[name]['f1']:.3f}" for scores in alone),
            f"{one['f1']:.3f}",
        ]
        for name, one in classes.items()
    )


def _confusion(classes: tuple[str, ...], counts: list[list[int]]) -> str:
    rows = [[name, *(n or "" for n in row)] for name, row in zip(classes, counts, strict=True)]
    return _table([["", *classes], ["---", *["---:"] * len(classes)], *rows])


def _on_others(facts: Facts) -> str:
    """Return a table of how a system's flows fare: by the other sources alone, and by all."""
    label = facts.dataset.label
    table = []
    for name, chosen in facts.sources[: len(facts.systems)]:
        said = _said_after(facts, ~chosen, np.arange(len(facts.dataset.classes)))
        others = (said == label)[chosen].mean()
        table.append(
            [name, int(chosen.sum()), f"{others:.2f}", f"{facts.right[chosen].mean():.2f}"]
        )
    return _table(table)


def _said_after(facts: Facts, learnt: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return what trees as the last stage's say of each flow that learnt from some.

    Args:
        learnt: (flows,) bool.
        known: classes that those have, ascending.
    """
    dataset = facts.dataset
    rows = dataset.columns(STATS.column_names())
    rounds = facts.results[max(facts.results)].report["trees"] // len(dataset.classes)
    label = np.searchsorted(known, dataset.label[learnt])
    ensemble = trees.fit(rows[learnt], label, len(known), 1, rounds)
    return known[ensemble.scores(rows).argmax(axis=1)]


def _on_public(facts: Facts) -> str:
    """Return a table of how public flows fare: by the lab's flows alone, and by both."""
    dataset = facts.dataset
    known = np.array([i for i, name in enumerate(dataset.classes) if name != UNKNOWN])
    said = _said_after(facts, facts.is_lab, known)
    table = []
    for class_index in known:
        chosen = ~facts.is_lab & (dataset.label == class_index)
        if chosen.any():
            alone = (said[chosen] == class_index).mean()
            both = (facts.answers.said[chosen] == class_index).mean()
            name = dataset.classes[class_index]
            table.append([name, int(chosen.sum()), f"{alone:.2f}", f"{both:.2f}"])
    return _table(table)


def _on_public_tls(facts: Facts, bundle: Path) -> str:
    """Return a table of what the cascade says of public TLS flows, none trained on."""
    recordings = list(bundle_recordings(bundle, _tls))
    flows = read_at_depths(recordings, list(facts.results), facts.rows.input)
    answers = facts.stages.told(facts.settled, flows)
    named = np.array(facts.dataset.classes)[answers.said]
    said = Counter(np.where(answers.refused, UNKNOWN, named).tolist())
    return _table([name, f"{count / len(flows):.2f}"] for name, count in said.most_common())


def _tls(row: dict[str, str]) -> str | None:
    app = row["ndpi_app"]
    return "tls" if app.partition(".")[0] == "TLS" and app not in SAME_KIND else None


def _table(rows: Iterable[list]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
