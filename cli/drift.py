"""etcpipe drift: does traffic still look as it did when a model was made?"""

from pathlib import Path
from typing import Any

import click

from etcpipe.cli.common import ModelFile, Verb, is_json, print_json
from etcpipe.cli.progress import Steps
from etcpipe.cli.reading import import_for_training, read_data, warn_of_stages


@click.command(cls=Verb)
@click.argument("model", type=ModelFile())
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--reference",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="DATA",
    help="Compare with these flows instead of those of the model's training.",
)
@click.option("--check", is_flag=True, help="Exit with 1 if something moved.")
@click.option("--seed", default=1, help="Seed of the draws that show what chance gives.")
@click.pass_context
def drift(
    ctx: click.Context,
    model: str,
    data: tuple[Path, ...],
    reference: tuple[Path, ...],
    check: bool,
    seed: int,
) -> None:
    """Say which classes of MODEL look different in DATA than when it was trained.

    DATA are captures or folders of them; labels are not needed. Compared are the statistics that
    count most, by class, how sure the model is, and how often it says each class. Distances are
    population stability indices (PSI): below 0.1 means no change, above 0.25 a large one.

    \b
    Examples:
      etcpipe drift mine.onnx today.pcap
      etcpipe drift default today/ --reference last-month/ --check
    """
    from etcpipe import model as models

    loaded = models.load(model)
    drifts, datasets = import_for_training("drift", "dataset")
    settings = datasets.Input(loaded.first_n, loaded.count, loaded.wait_s)
    views = [loaded.view.name]
    with Steps() as progress:

        def read(paths: tuple[Path, ...]) -> Any:
            return read_data(paths, None, settings, loaded.mask, views, progress, has_labels=False)

        if reference:
            before = drifts.of_model(loaded, read(reference), None)
        else:
            before = drifts.reference_of(loaded)
        now = drifts.of_model(loaded, read(data), before)
    report = {"model": str(loaded), **drifts.compare(before, now, seed)}
    if is_json(ctx):
        print_json(ctx, report)
    else:
        warn_of_stages(loaded)
        click.echo(_as_text(report))
    if check and report["moved"]:
        ctx.exit(1)


def _as_text(report: dict[str, Any]) -> str:
    which = ", ".join(report["which"]) or "no class by itself"
    lines = [
        f"{report['model']}: {report['flows']} flows, {report['reference_flows']} in the reference",
        f"moved: {which}" if report["moved"] else "nothing moved",
        "",
        f"{'class':<20}{'before':>8}{'now':>8}{'flows':>8}{'PSI':>8}{'of prob':>9}",
    ]
    for name, one in report["classes"].items():
        row = f"{name:<20}{one['share_before']:>8.1%}{one['share_now']:>8.1%}{one['flows']:>8}"
        if "psi" in one:
            row += f"{one['psi']:>8.2f}{one['confidence']['psi']:>9.2f}"
        else:
            row += f"{'too few':>17}"
        lines.append(row + ("  moved" if one["moved"] else ""))
    lines += ["", f"{'over all':<20}{'PSI':>8}{'chance':>8}"]
    whole = {
        "classes said": report["mix"],
        "probability": report["confidence"],
        **report["columns"],
    }
    for name, one in whole.items():
        mark = "  moved" if one["moved"] else ""
        lines.append(f"{name:<20}{one['psi']:>8.2f}{one['chance']:>8.2f}{mark}")
    return "\n".join(lines)
