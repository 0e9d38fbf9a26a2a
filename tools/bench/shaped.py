"""Measures what shaping does to models of one kind, fitted anew on folds by capture.

    python tools/bench/shaped.py BUNDLE --task tls_org --arch traffic_moe_tiny
        [--shape pad=mtu] [--columns clean_trained,adaptive] [--rounds 40] [--work DIR] [--json]

The columns are those of etcpipe.evaluation.shape_eval; `etcpipe eval --shape` has all of them,
and the model file's own beside. A network's fits are kept in the working folder, so that an
interrupted run goes on where it was.
"""

from pathlib import Path

import common
from common import Report, Table
from models import view_of

from etcpipe import dataset as datasets
from etcpipe.evaluation import shape_eval
from etcpipe.shaping import SUITE, parse
from etcpipe.training import train
from etcpipe.training.fitting import Fitting

MASK = "strict"


def measure(options, texts: list[str], columns: list[str]) -> dict:
    """Return what shape_eval.measure() says of one architecture."""
    recordings = datasets.find_recordings(options.bundle, options.task)
    folder = options.work / f"shaped-{options.task}-{options.arch}-{options.rounds}"
    fitting = Fitting(rounds=options.rounds, checkpoints=folder)
    settings = train.Settings(datasets.Input(), mask=MASK, arch=options.arch, fitting=fitting)
    reading = shape_eval.Reading(recordings, settings.input, MASK, (view_of(options.arch),))
    clean, _ = reading.shaped(None)
    learner, _ = train.learners_of(clean, settings)
    return shape_eval.measure(
        reading,
        learner,
        [parse(text) for text in texts],
        on_step=lambda what, done, total: common.progress(f"{what}, {done} of {total}"),
        columns=columns,
    )


def main() -> None:
    parser = common.parser(__doc__.splitlines()[0], repeats=1)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--task", help="of a bundle with tasks.csv")
    parser.add_argument("--arch", default=train.TREES)
    parser.add_argument("--shape", action="append", help="default: the suite of `etcpipe eval`")
    parser.add_argument("--columns", default=",".join(shape_eval.COLUMNS))
    parser.add_argument("--rounds", type=int, help="of training; default: by architecture")
    options = parser.parse_args()
    columns = options.columns.split(",")
    found = measure(options, options.shape or list(SUITE), columns)
    report = Report(
        "shaped", f"{options.arch}, shaped flows of {options.task or options.bundle}", {}
    )
    clean = _with_interval(found["clean"])
    table = Table(f"not shaped: {clean}", ["shaping", "bytes", "time", "packets", *columns])
    for name, one in found["shapings"].items():
        costs = [f"{one['overhead'][cost]:+.0%}" for cost in ("bytes", "time", "packets")]
        shown = [_with_interval(one[column]) for column in columns]
        table.rows.append([f"`{name}`", *costs, *shown])
    report.tables.append(table)
    report.results = found
    report.show(options.json)


def _with_interval(one: dict) -> str:
    low, high = one["macro_f1_interval"]
    return f"{one['macro_f1']:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
