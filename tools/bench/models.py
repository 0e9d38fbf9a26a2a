"""Compares models on the tasks of a labelled bundle, over seeds, on captures held out.

    python tools/bench/models.py BUNDLE --tasks tls_org,iscx_vpn --archs lightgbm,knn,df30_lite
        [--against NAME] [--repeats 5] [--rounds 8] [--rows-max 4000] [--work DIR] [--json]

A bundle has tasks.csv, which says of each labelled flow whether it is to train or to test; no
capture is on both sides. Every unit (task, model, seed) is kept in the working folder, so
that an interrupted run goes on where it was. --rows-max bounds the flows that are learnt
from, drawn by seed; all flows of the test side are judged.

NAME@20 trains for at most 20 rounds, whatever --rounds says. A model NAME:tuned begins with an
encoder that was pre-trained, once for all tasks, on the bundle's captures that are on no task's
test side; NAME:frozen leaves that encoder as it is.
"""

import csv
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np
from common import Report, Table

from etcpipe import dataset as datasets
from etcpipe.evaluation import evaluate
from etcpipe.training import pretrained, train
from etcpipe.training.fitting import Fitting
from etcpipe.training.learner import Learner
from etcpipe.zoo import ARCHS

TREES = train.TREES
FIRST_N = 10
STOP_SHARE = 0.2  # of the captures to train, which tell when to stop
FLOWS_MIN = 10  # of a class, on either side
SEPARATOR = "/"
STARTS = ("tuned", "frozen")


@dataclass(frozen=True)
class Task:
    """Rows of both sides; label indexes names.

    Attributes:
        train, test: (rows,) numbers of rows.
    """

    name: str
    dataset: datasets.Dataset
    label: np.ndarray
    names: tuple[str, ...]
    train: np.ndarray
    test: np.ndarray


def read_task(bundle: Path, work: Path, name: str, view: str) -> Task:
    """Return a task's rows with a view, built into the working folder once."""
    folder = work / f"{name}-{view}"
    if not folder.exists():
        with (bundle / "tasks.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["task"] == name]
        labels = {row["flow_uid"]: row["split"] + SEPARATOR + row["label"] for row in rows}
        if not labels:
            raise SystemExit(f"bench: {bundle} has no task {name}")
        recordings = datasets.bundle_recordings(bundle, lambda row: labels.get(row["flow_uid"]))
        work.mkdir(parents=True, exist_ok=True)
        datasets.build(list(recordings), folder, datasets.Input(FIRST_N), [view])
    dataset = datasets.open_folder(folder)
    side, said = zip(*(one.split(SEPARATOR, 1) for one in dataset.classes), strict=True)
    is_test = np.array([one == "test" for one in side])[dataset.label]
    names, index = np.unique(said, return_inverse=True)
    label = index[dataset.label]
    counts = np.stack([np.bincount(label[is_test == on], minlength=len(names)) for on in (0, 1)])
    kept = np.flatnonzero((counts >= FLOWS_MIN).all(axis=0))
    is_kept = np.isin(label, kept)
    return Task(
        name,
        dataset,
        np.searchsorted(kept, label),
        tuple(names[kept].tolist()),
        np.flatnonzero(is_kept & ~is_test),
        np.flatnonzero(is_kept & is_test),
    )


def pretrained_on(bundle: Path, work: Path, arch: str, rounds: int) -> pretrained.Pretrained:
    """Return an encoder that saw no capture of any task's test side; made once."""
    from etcpipe.training import pretrain

    kept = work / f"{arch}-{rounds}.npz"
    if not kept.exists():
        tested, flows = set(), {}
        with (bundle / "flows.csv").open(newline="") as file:
            flows = {row["flow_uid"]: row["pcap"] for row in csv.DictReader(file)}
        with (bundle / "tasks.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
        tested = {flows[row["flow_uid"]] for row in rows if row["flow_uid"] in flows}
        folder, view = work / f"pretrain-{ARCHS[arch].view}", ARCHS[arch].view
        if not folder.exists():
            paths = sorted(set(flows.values()) - tested)
            recordings = [one for path in paths for one in datasets.find_captures(bundle / path)]
            datasets.build(recordings, folder, datasets.Input(FIRST_N), [view])
        settings = pretrain.Settings(arch, datasets.Input(FIRST_N), fitting=Fitting(rounds=rounds))
        made = pretrain.pretrain(datasets.open_folder(folder), settings, common.progress)
        kept.write_bytes(made.to_bytes())
    return pretrained.load(kept)


def run_unit(options, task: Task, learner: Learner, seed: int) -> dict:
    """Return what a fit says of the test side, and what it took."""
    rows_max = options.rows_max
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(task.train)[:rows_max])
    captures = np.unique(task.dataset.capture[chosen])
    stopping = rng.permutation(captures)[: max(round(STOP_SHARE * len(captures)), 1)]
    stop = np.isin(task.dataset.capture[chosen], stopping)
    rows, label = learner.rows(task.dataset), task.label[chosen]
    if len(np.unique(label[~stop])) < len(task.names):
        stop = rng.random(len(chosen)) < STOP_SHARE  # a class of one capture: by flow, then
    began = time.monotonic()
    fitted = learner.fit(rows[chosen], label, len(task.names), f"{task.name}-{seed}", stop=stop)
    took = time.monotonic() - began
    said = fitted.scores(rows[task.test]).argmax(axis=1)
    return {"said": said.tolist(), "fit_s": took, "rounds": fitted.rounds, "learnt": len(chosen)}


def learner_of(options, task: Task, arch: str, seed: int, rounds: int | None) -> Learner:
    """Return what learns: a model, or one that begins with a pre-trained encoder."""
    name, _, start = arch.partition(":")
    fitting = Fitting(rounds=rounds)
    settings = train.Settings(datasets.Input(FIRST_N), seed=seed, arch=name, fitting=fitting)
    if not start:
        return train.learners_of(task.dataset, settings)[0]
    if start not in STARTS:
        raise SystemExit(f"bench: {arch}: behind the colon comes {' or '.join(STARTS)}")
    from etcpipe.training.network_learner import NetworkLearner

    weights = pretrained_on(options.bundle, options.work, name, options.pretrain_rounds)
    judged = np.unique(task.dataset.capture[task.test])
    if {task.dataset.digests[i] for i in judged} & set(weights.captures):
        raise SystemExit(f"bench: the pre-training of {name} saw captures that {task.name} judges")
    return NetworkLearner(
        name, seed, fitting, task.dataset.digest(), weights, is_frozen=start == "frozen"
    )


def view_of(arch: str) -> str:
    """Return the view that a model learns from."""
    return "stats" if arch == TREES else ARCHS[re.split("[:@]", arch)[0]].view


def summarise(task: Task, units: dict[str, list[dict]], against: str) -> dict[str, dict]:
    """Return macro-F1 of each model, the mean over its seeds, and its difference to one of them.

    Intervals are of the means: captures and seeds are resampled, the same for every model.
    """
    label, capture = task.label[task.test], task.dataset.capture[task.test]
    classes, found, resampled = len(task.names), {}, {}
    for arch, runs in units.items():
        said = [np.array(one["said"]) for one in runs]
        f1 = [evaluate.macro_f1(evaluate.confusion_matrix(label, one, classes)) for one in said]
        draws = np.stack([evaluate.resampled_f1(label, one, capture, classes, 1) for one in said])
        seeds = np.random.default_rng(1).integers(len(draws), size=draws.shape)
        resampled[arch] = np.take_along_axis(draws, seeds, axis=0).mean(axis=0)
        found[arch] = {
            "macro_f1": float(np.mean(f1)),
            "deviation": float(np.std(f1)),
            "interval": evaluate.interval(resampled[arch]),
            "seeds": len(runs),
            "fit_s": float(np.mean([one["fit_s"] for one in runs])),
        }
    for arch in found.keys() - {against} if against in found else ():
        beyond = found[arch]["macro_f1"] - found[against]["macro_f1"]
        between = evaluate.interval(resampled[arch] - resampled[against])
        found[arch]["beyond"] = (beyond, *between)
    return found


def main() -> None:
    parser = common.parser(__doc__.splitlines()[0], repeats=5)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tasks", required=True, help="names, separated by commas")
    parser.add_argument("--archs", required=True, help="models, separated by commas")
    parser.add_argument("--rounds", type=int, help="of training, at most")
    parser.add_argument("--pretrain-rounds", type=int, default=5)
    parser.add_argument("--rows-max", type=int, default=4000, help="flows that are learnt from")
    parser.add_argument("--against", default=TREES, help="which of them others are compared with")
    options = parser.parse_args()
    seeds = 1 if options.quick else options.repeats or 5
    report = Report("models", "Models by task", {"torch": common.package("torch")})
    for name in options.tasks.split(","):
        task, units = None, {}
        for arch in options.archs.split(","):
            task = read_task(options.bundle, options.work, name, view_of(arch))
            units[arch] = [_unit(options, task, arch, seed) for seed in range(1, seeds + 1)]
        _add(report, task, summarise(task, units, options.against), options.against)
    if len(report.results) > 1:
        report.tables = [*overview(report.results, options.against), *report.tables]
    report.notes.append(
        f"at most {options.rows_max} flows learnt from, {options.rounds or 'the usual'} rounds; "
        "mean and deviation over seeds; intervals are of the means, by captures and seeds"
    )
    report.show(options.json)


def _unit(options, task: Task, arch: str, seed: int) -> dict:
    arch, _, own = arch.partition("@")
    rounds = int(own) if own else options.rounds
    kept = options.work / f"{task.name}-{arch}-{seed}-{rounds}-{options.rows_max}.json"
    if not kept.exists():
        common.progress(f"{task.name} {arch} seed {seed}")
        unit = run_unit(options, task, learner_of(options, task, arch, seed, rounds), seed)
        kept.write_text(json.dumps(unit))
    return json.loads(kept.read_text())


def overview(results: dict[str, dict[str, dict]], against: str) -> list[Table]:
    """Return macro-F1 of all models on all tasks, and the same less that of one of them.

    Args:
        results: what summarise() says, by task.
    """
    archs = list(next(iter(results.values())))
    others = [arch for arch in archs if arch != against]
    tables = [
        Table("Macro-F1 by task", ["task", "seeds", *archs]),
        Table(f"Macro-F1 less that of {against}", ["task", *others]),
    ]
    for name, found in results.items():
        seeds = str(max(one["seeds"] for one in found.values()))
        tables[0].rows.append([name, seeds, *(_mean(found[arch]) for arch in archs)])
        tables[1].rows.append([name, *(_beyond(found[arch]) for arch in others)])
    return tables if against in archs else tables[:1]


def _mean(one: dict) -> str:
    return f"{one['macro_f1']:.3f}" + f" +- {one['deviation']:.3f}" * (one["seeds"] > 1)


def _beyond(one: dict) -> str:
    beyond = one.get("beyond")
    return f"{beyond[0]:+.3f} ({beyond[1]:+.3f} to {beyond[2]:+.3f})" if beyond else ""


def _add(report: Report, task: Task, found: dict[str, dict], against: str) -> None:
    table = Table(
        f"{task.name}: {len(task.names)} classes, {len(task.train)} flows to learn from, "
        f"{len(task.test)} judged",
        ["model", "macro-F1", "interval", f"beyond {against}", "fit"],
    )
    for arch, one in found.items():
        low, high = one["interval"]
        interval, took = f"{low:.3f} to {high:.3f}", f"{one['fit_s']:.0f} s"
        table.rows.append([arch, _mean(one), interval, _beyond(one), took])
    report.tables.append(table)
    report.results[task.name] = found


if __name__ == "__main__":
    main()
