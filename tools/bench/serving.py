"""Measures a cascade on labelled captures: early answers, and new flows a second under load.

    python tools/bench/serving.py BUNDLE [--task TASK] [--target TARGET] [--quick] [--json]
    python tools/bench/serving.py BUNDLE --repartition [SEED,...]

BUNDLE is a folder with flows.csv and tasks.csv, or one of recordings with labels.csv for --train
and --test instead. The cascade is fitted to the part "train", which takes a minute or two the
first time, and kept in --work; the part "test" is served. Everything is pinned to one processor.
With --repartition the captures of both parts are dealt anew, once a seed. One seed is measured as
the bundle's own parts are; of several, each is fitted and served once with recorded gaps.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import common
from common import Goal, Report, Table
from partitions import Parts, dealt, show_each

from etcpipe import dataset as datasets
from etcpipe import model as models
from etcpipe.cascade import candidates, fit, serving
from etcpipe.cascade.rows import read_at_depths
from etcpipe.dataset import Input, Recording
from etcpipe.errors import EtcpipeError, UsageError
from etcpipe.serving import bench, plots, recorded, report

DEPTHS = "1,2,3,5,10"
# Named before any of them was tried, when the defaults of the options below were settled.
SEEDS = "401,402,403,404,405"


def fitted(
    train: list[Recording], file: Path, models_: str, depths: tuple[int, ...], goal: fit.Target
) -> None:
    """Write a cascade of models at some depths, and the slow one to compare with."""
    wanted = [candidates.parse(name, depths) for name in models_.split()]
    views = candidates.views_of(wanted)
    rows = read_at_depths(train, depths, Input(), views)
    how = candidates.Training()
    result = fit.fit(wanted, rows, how, goal, lambda what, done, total: common.progress(what))
    fit.write(result, file, with_slow=True)


def measured(test: list[Recording], file: Path, settings: bench.Settings) -> bench.Report:
    """Return what the cascade of a file does with recordings."""
    cascade, slow = serving.load(file), models.load(file.with_name(f"{file.stem}-slow.onnx"))
    flows = recorded.read(
        test,
        cascade.classes,
        bench.depths_of(cascade, slow),
        Input(count=cascade.count, wait_s=cascade.wait_s),
        sorted({*cascade.views, slow.view.name}),
        cascade.mask,
    )
    return bench.run(
        cascade, slow, flows, settings, lambda what, done, total: common.progress(what)
    )


def show_one(found: bench.Report, shown: Report, is_quick: bool) -> None:
    """Put all tables of one cascade into a report."""
    shown.results = report.as_numbers(found)
    *tables, (_, _, goals) = report.tables(found)
    shown.tables = [Table(*table) for table in tables]
    shown.notes = [f"{found.flows:,} flows; stages: {report.stages_of(found)}."]
    if not is_quick:
        shown.goals = [Goal(*row, verdict == "met") for *row, verdict in goals]


def options() -> argparse.Namespace:
    """Return what was given, with BUNDLE or --train and --test."""
    parser = common.parser(__doc__.splitlines()[0], 1)
    parser.add_argument("bundle", type=Path, nargs="?", help="with flows.csv and tasks.csv")
    parser.add_argument("--task", default="protocol", help="of the bundle (protocol)")
    parser.add_argument("--train", type=Path, help="recordings to learn from, for a bundle")
    parser.add_argument("--test", type=Path, help="recordings to serve")
    parser.add_argument(
        "--repartition", nargs="?", const=SEEDS, metavar="SEED,...", help=f"deal anew ({SEEDS})"
    )
    parser.add_argument("--models", default="lightgbm_tok", help="to train, at all depths")
    parser.add_argument("--depths", default=DEPTHS, help=f"packets of stages ({DEPTHS})")
    parser.add_argument("--target", default="f1", help="as etcpipe cascade fit has it (f1)")
    parser.add_argument("--rule", default="per_class", help="as etcpipe cascade fit has it")
    for name, default in (("--speed-up", 40.5), ("--of-oracle", 0.9)):
        text = f"as etcpipe cascade fit has it ({default})"
        parser.add_argument(name, type=float, default=default, help=text)
    text = "of capacity, as 0.8,1.5; else all, and none where several seeds are dealt"
    parser.add_argument("--loads", help=text)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each load (0.5)")
    parser.add_argument("--plot", type=Path, help="folder for pictures")
    args = parser.parse_args()
    if not args.bundle and not (args.train and args.test and not args.repartition):
        parser.error("give a BUNDLE, or --train and --test")
    return args


def parts_of(args: argparse.Namespace, seed: int | None) -> Parts:
    """Return the recordings to learn from, and those to serve."""
    if not args.bundle:
        return datasets.find_recordings(args.train), datasets.find_recordings(args.test)
    if seed is not None:
        return dealt(datasets.find_recordings(args.bundle, args.task), seed)
    learns, serves = (
        datasets.find_recordings(args.bundle, args.task, part) for part in ("train", "test")
    )
    return learns, serves


def served(args: argparse.Namespace, seed: int | None, settings: bench.Settings) -> bench.Report:
    """Return what a cascade does, fitted first unless --work has it.

    Raises:
        UsageError: none is as early as was asked.
    """
    goal = fit.Target(args.target, args.rule, fit.SLACK, args.speed_up, args.of_oracle)
    of = f"{args.bundle.name}-{args.task}" if args.bundle else "recordings"
    named = [of, *vars(goal).values(), args.models.replace(" ", "+")]
    named += [args.depths] if args.depths != DEPTHS else []
    named += [f"seed{seed}"] if seed is not None else []
    file = args.work / f"serving-{'-'.join(map(str, named))}.toml"
    learns, serves = parts_of(args, seed)
    if not file.exists():
        fitted(learns, file, args.models, tuple(map(int, args.depths.split(","))), goal)
    return measured(serves, file, settings)


def served_or_none(
    args: argparse.Namespace, seed: int, settings: bench.Settings
) -> bench.Report | None:
    """Return what served() does, None where no cascade is as early as was asked."""
    common.progress(f"partition {seed}")
    try:
        return served(args, seed, settings)
    except UsageError as error:
        common.progress(str(error))
        return None


def main() -> None:
    args = options()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    args.work.mkdir(parents=True, exist_ok=True)
    seeds = [int(one) for one in args.repartition.split(",")] if args.repartition else [None]
    settings = bench.Settings(seconds=args.seconds)
    if args.quick:
        settings = replace(settings, loads=(0.5, 1.5), seconds=0.2)
    if args.loads or len(seeds) > 1:
        loads = args.loads.split(",") if args.loads else ()
        settings = replace(settings, loads=tuple(map(float, loads)))
    name = args.bundle.name + f"-{args.task}" if args.bundle else "recordings"
    shown = Report("serving", f"Serving {name}", {"lightgbm": common.package("lightgbm")})
    if len(seeds) > 1:
        show_each({seed: served_or_none(args, seed, settings) for seed in seeds}, shown)
    else:
        found = served(args, seeds[0], settings)
        show_one(found, shown, args.quick)
        if args.plot:
            plots.draw(found, args.plot)
    if args.quick:
        shown.notes.append(common.quick_note())
    shown.show(args.json)


if __name__ == "__main__":
    try:
        main()
    except EtcpipeError as error:
        raise SystemExit(f"bench: {error}") from error
