"""Measures a cascade on labelled captures: early answers, and new flows a second under load.

    python tools/bench/serving.py BUNDLE [--task TASK] [--target TARGET] [--quick] [--json]

BUNDLE is a folder with flows.csv and tasks.csv, or one of recordings with labels.csv for --train
and --test instead. The cascade is fitted to the part "train", which takes a minute or two the
first time, and kept in --work; the part "test" is served. Everything is pinned to one processor.
"""

import os
from dataclasses import replace
from pathlib import Path

import common
from common import Goal, Report, Table

from etcpipe import dataset as datasets
from etcpipe import model as models
from etcpipe.cascade import candidates, fit, serving
from etcpipe.cascade.rows import read_at_depths
from etcpipe.dataset import Input, Recording
from etcpipe.serving import bench, plots, recorded, report

DEPTHS = "1,2,3,5,10"


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


def measured(
    test: list[Recording], file: Path, settings: bench.Settings, pictures: Path | None
) -> bench.Report:
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
    found = bench.run(
        cascade, slow, flows, settings, lambda what, done, total: common.progress(what)
    )
    if pictures:
        plots.draw(found, pictures)
    return found


def main() -> None:
    parser = common.parser(__doc__.splitlines()[0], 1)
    parser.add_argument("bundle", type=Path, nargs="?", help="with flows.csv and tasks.csv")
    parser.add_argument("--task", default="protocol", help="of the bundle (protocol)")
    parser.add_argument("--train", type=Path, help="recordings to learn from, for a bundle")
    parser.add_argument("--test", type=Path, help="recordings to serve")
    parser.add_argument("--models", default="lightgbm_tok", help="to train, at all depths")
    parser.add_argument("--depths", default=DEPTHS, help=f"packets of stages ({DEPTHS})")
    parser.add_argument("--target", default="f1", help="as etcpipe cascade fit has it (f1)")
    parser.add_argument("--rule", default="threshold", help="as etcpipe cascade fit has it")
    parser.add_argument("--speed-up", type=float, default=0.0, help="as etcpipe cascade fit has it")
    parser.add_argument(
        "--of-oracle", type=float, default=0.0, help="as etcpipe cascade fit has it"
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="of each load (0.5)")
    parser.add_argument("--plot", type=Path, help="folder for pictures")
    args = parser.parse_args()
    if args.bundle:
        parts = [datasets.find_recordings(args.bundle, args.task, p) for p in ("train", "test")]
        name = f"{args.bundle.name}-{args.task}"
    elif args.train and args.test:
        parts, name = [datasets.find_recordings(p) for p in (args.train, args.test)], "recordings"
    else:
        parser.error("give a BUNDLE, or --train and --test")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    args.work.mkdir(parents=True, exist_ok=True)
    goal = fit.Target(args.target, args.rule, fit.SLACK, args.speed_up, args.of_oracle)
    how = "-".join(map(str, vars(goal).values())) + f"-{args.models.replace(' ', '+')}"
    how += "" if args.depths == DEPTHS else f"-{args.depths}"
    file = args.work / f"serving-{name}-{how}.toml"
    if not file.exists():
        depths = tuple(map(int, args.depths.split(",")))
        fitted(parts[0], file, args.models, depths, fit.Target(args.target, args.rule))
    settings = bench.Settings(seconds=args.seconds)
    if args.quick:
        settings = replace(settings, loads=(0.5, 1.5), seconds=0.2)
    shown = Report("serving", f"Serving {name}", {"lightgbm": common.package("lightgbm")})
    found = measured(parts[1], file, settings, args.plot)
    shown.results = report.as_numbers(found)
    *tables, (_, _, goals) = report.tables(found)
    shown.tables = [Table(*table) for table in tables]
    shown.notes = [f"{found.flows:,} flows; stages: {report.stages_of(found)}."]
    if args.quick:
        shown.notes.append(common.quick_note())
    else:
        shown.goals = [Goal(*row, verdict == "met") for *row, verdict in goals]
    shown.show(args.json)


if __name__ == "__main__":
    main()
