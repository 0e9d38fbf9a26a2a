"""etcpipe train: labelled captures in, a model file and its held-out scores out."""

from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

import click

from etcpipe.cli import families_text, pretraining
from etcpipe.cli.common import Verb, check_suffix, is_json, output_option, print_json
from etcpipe.cli.fitting import fitting_options
from etcpipe.cli.progress import Steps
from etcpipe.cli.reading import TASK_OPTION, import_for_training, input_of, input_options, read_data
from etcpipe.cli.splitting import split_options
from etcpipe.training.fitting import KERNEL_TREES, VIEW_TREES, Fitting
from etcpipe.zoo import ARCHS

if TYPE_CHECKING:
    from etcpipe.training.train import Result


@click.command(cls=Verb, short_help="Train a model from labelled captures.")
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@output_option("FILE", "The model, a .onnx file.")
@TASK_OPTION
@click.option("--name", metavar="NAME", help="The model's name; default: that of the file.")
@click.option(
    "--arch",
    type=click.Choice(["lightgbm", KERNEL_TREES, *VIEW_TREES, *ARCHS]),
    default="lightgbm",
    metavar="NAME",
    help=f"lightgbm on statistics; {KERNEL_TREES}, which --stage0 kernel takes; on whole "
    f"views: {', '.join(VIEW_TREES)}; or a network: "
    f"{', '.join(ARCHS)}.",
)
@click.option(
    "--family",
    "families",
    multiple=True,
    metavar="NAME=CLASS,CLASS",
    help="Classes that a verdict may name together; may be repeated. Without it, as labels tell.",
)
@input_options
@click.option("--folds", default=5, type=click.IntRange(2), help="Of captures.")
@click.option("--seed", default=1, help="Makes folds and fits repeatable.")
@split_options
@fitting_options
@click.option(
    "--pretrain",
    is_flag=True,
    help="Learn from DATA without labels, captures or folders of them; -o is a .npz of weights.",
)
@click.pass_context
def train(
    ctx: click.Context,
    data: tuple[Path, ...],
    output: Path,
    task: str | None,
    name: str | None,
    arch: str,
    families: tuple[str, ...],
    first: int | None,
    count: str,
    wait: float,
    mask: str,
    folds: int,
    seed: int,
    split: str,
    fitting: Fitting,
    pretrain: bool,
) -> None:
    """Train gradient boosted trees, or a network, on DATA and write them as one .onnx file.

    DATA are folders with captures and a labels.csv (as `etcpipe lab record` makes them),
    a bundle with flows.csv and tasks.csv, or one folder of `etcpipe dataset build`. Every
    score that is printed comes from captures that were held out. The training of a network
    that was cut off goes on where it was when the same command runs again.

    \b
    Examples:
      etcpipe lab record monday.pcap --sessions 10 --seed 1
      etcpipe lab record tuesday.pcap --sessions 10 --seed 2
      etcpipe train . -o mine.onnx
      etcpipe classify other.pcap --model mine.onnx
    """
    if not output.absolute().parent.is_dir():
        raise click.BadParameter(f"no folder {output.parent}", ctx, param_hint="-o")
    if not pretrain:
        check_suffix(output, ".onnx", "a model file")
    datasets, trains, choice = import_for_training(
        "dataset", "training.train", "training.family_choice"
    )
    of_families = choice.parsed(families)
    network = ARCHS.get(arch)
    first = first or (network.first_n if network else None)
    given = datasets.Input(first or datasets.Input.first_n, count, wait)
    view = network.view if network else VIEW_TREES.get(arch)
    with Steps() as progress:
        dataset = read_data(data, task, given, mask, [view] if view else [], progress, not pretrain)
        settings = trains.Settings(
            input_of(data, given),
            name or output.stem,
            mask,
            seed,
            folds,
            arch,
            fitting,
            split,
            of_families,
        )
        if pretrain:
            weights = pretraining.learn(dataset, settings, progress)
            write = partial(pretraining.write, ctx, output, weights)
        else:
            result = trains.train(dataset, settings, on_step=progress)
            write = partial(_write_model, ctx, output, result)
    write()
    if fitting.checkpoints:
        rmtree(fitting.checkpoints, ignore_errors=True)


def _write_model(ctx: click.Context, output: Path, result: "Result") -> None:
    output.write_bytes(result.model)
    files = {"model": str(output)}
    if result.gpu_model:
        for_gpu = output.with_name(f"{output.stem}.gpu{output.suffix}")
        for_gpu.write_bytes(result.gpu_model)
        files["gpu_model"] = str(for_gpu)
    if is_json(ctx):
        print_json(ctx, files | {"us_per_flow": round(result.us_per_flow, 2)} | result.report)
    else:
        click.echo(as_text(result.report))
        click.echo(_cost(output, result))


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


def _cost(output: Path, result: "Result") -> str:
    kind = "trees" if "trees" in result.report else "parameters"
    return (
        f"{output}: {len(result.model) / 1e3:.0f} kB, {result.report[kind]} {kind}, "
        f"{result.us_per_flow:.1f} us a flow on one core"
    )
