"""etcpipe model: what models there are, what one says of itself, how fast it is here."""

from typing import TYPE_CHECKING

import click

from etcpipe.cli.common import Device, Group, ModelFile, Verb, is_json, option, print_json

if TYPE_CHECKING:
    from etcpipe.model import Model
    from etcpipe.model_bench import Speed
    from etcpipe.model_file import Description


@click.group(cls=Group, short_help="List, show or measure models, or put one in service.")
def model() -> None:
    """List models, show or measure one, and replace the one that a running attach uses."""


@model.command("list", cls=Verb)
@click.pass_context
def list_models(ctx: click.Context) -> None:
    """List the models that come with etcpipe.

    \b
    Example:
      etcpipe model list
    """
    from etcpipe import model as models
    from etcpipe.cascade import bundle

    loaded = {path.stem: models.load(path) for path in models.list_shipped()}
    if is_json(ctx):
        print_json(ctx, [_summary(one) | {"name": name} for name, one in loaded.items()])
        return
    from etcpipe.outputs.table import Table

    table = Table(["model", ">classes", "view", "packets", ">macro-F1"])
    rows = [
        [
            name,
            str(len(one.classes)),
            one.view.name,
            " or ".join(map(str, bundle.depths(one))),
            _macro_f1(one),
        ]
        for name, one in loaded.items()
    ]
    click.echo("\n".join(table.lines(rows)))


@model.command("show", cls=Verb)
@click.argument("file", type=ModelFile(), required=False, metavar="[FILE]")
@click.pass_context
def show_model(ctx: click.Context, file: str | None) -> None:
    """Show what a model FILE is: classes, input, scores. Without FILE, the default model.

    \b
    Examples:
      etcpipe model show
      etcpipe model show mine.onnx
    """
    from dataclasses import asdict

    from etcpipe import model as models

    loaded = models.load(file)
    if is_json(ctx):
        about = {"digest": loaded.digest, "engine": loaded.engine}
        print_json(ctx, asdict(loaded.description) | about)
        return
    click.echo(_as_text(loaded))


@model.command("bench", cls=Verb)
@click.argument("file", type=ModelFile(), required=False, metavar="[FILE]")
@click.option(
    "--device",
    default="auto",
    metavar="WHERE",
    help="auto, cpu or gpu as in classify, or an engine: tensorrt, tensorrt_rtx, cuda, "
    "onnxruntime.",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1, 65536),
    multiple=True,
    metavar="FLOWS",
    help="Flows in a call; may be repeated.",
)
@click.option("--threads", type=click.IntRange(1, 256), default=1, help="CPU threads for a call.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, 60),
    default=1.0,
    help="Seconds to spend on each batch size.",
)
@click.pass_context
def bench_model(
    ctx: click.Context,
    file: str | None,
    device: str,
    batches: tuple[int, ...],
    threads: int,
    seconds: float,
) -> None:
    """Measure how fast a model is here: inference alone, from rows to probabilities.

    \b
    Examples:
      etcpipe model bench
      etcpipe model bench mine.onnx --device tensorrt --batch 1 --batch 256
    """
    from dataclasses import asdict

    from etcpipe import model as models
    from etcpipe import model_bench

    loaded = models.load(file, threads, device)
    speeds = model_bench.measure(loaded, batches or model_bench.BATCHES, seconds)
    if is_json(ctx):
        about = {"model": str(loaded), "engine": loaded.engine, "threads": threads}
        print_json(ctx, about | {"batches": [asdict(speed) for speed in speeds]})
        return
    click.echo(f"{loaded}, {loaded.engine}, {threads} thread{'s' * (threads > 1)}\n")
    click.echo("\n".join(_speed_lines(speeds)))


@model.command("load", cls=Verb)
@click.argument("file", type=ModelFile())
@click.option("--dev", "device", type=Device(), required=True, help="Device that attach runs on.")
@click.option("--shadow", is_flag=True, help="Only compare it with the active one; see show.")
@click.pass_context
def load_model(ctx: click.Context, file: str, device: str, shadow: bool) -> None:
    """Replace the model of a running attach by FILE, a model or a cascade.

    No packet is lost and each flow is answered once. The model must have the same classes as
    the one it replaces; a shadow may have others. If a cascade answers (attach without
    --model), FILE may be a cascade: its .toml, or the file that holds all of it. After a
    restart, attach uses the model that it is started with.

    \b
    Examples:
      etcpipe model load new.onnx --dev eth0 --shadow
      etcpipe show eth0
      etcpipe model load new.onnx --dev eth0
    """
    from etcpipe import model as models
    from etcpipe.cascade import serving, stages

    path = str(models.find(file).resolve())
    is_cascade = path.endswith(stages.SUFFIX) and not shadow
    (serving.load if is_cascade else models.load)(path)  # what is wrong with the file is said here
    _ask(ctx, device, "shadow" if shadow else "load", path)


@model.command("rollback", cls=Verb)
@click.option("--dev", "device", type=Device(), required=True, help="Device that attach runs on.")
@click.pass_context
def roll_back(ctx: click.Context, device: str) -> None:
    """Let a running attach use its previous model again.

    \b
    Example:
      etcpipe model rollback --dev eth0
    """
    _ask(ctx, device, "rollback")


def _ask(ctx: click.Context, device: str, action: str, path: str | None = None) -> None:
    from etcpipe.live.requests import ask

    answer = ask(device, option(ctx, "netns"), action, path)
    if is_json(ctx):
        print_json(ctx, {"device": device, "model": answer["model"], "engine": answer["engine"]})
    else:
        role = "shadow" if action == "shadow" else "model"
        click.echo(f"{device}: {role} {answer['model']} by {answer['engine']}")


def _speed_lines(speeds: list["Speed"]) -> list[str]:
    from etcpipe.outputs.table import Table

    table = Table([">flows", ">flows/s", ">CPU us/flow", ">p50 us", ">p99 us", ">calls"])
    rows = [
        [
            str(speed.flows),
            f"{speed.flows_per_s:,.0f}",
            f"{speed.cpu_us_per_flow:.1f}",
            f"{speed.p50_us:,.0f}",
            f"{speed.p99_us:,.0f}",
            str(speed.calls),
        ]
        for speed in speeds
    ]
    return table.lines(rows)


def _summary(loaded: "Model") -> dict:
    from etcpipe.cascade import bundle

    scores = loaded.description.scores
    return {
        "name": loaded.name,
        "digest": loaded.digest,
        "classes": list(loaded.classes),
        "families": {name: list(of) for name, of in loaded.labels.families.items()},
        "view": loaded.view.name,
        "first_n": loaded.first_n,
        "depths": bundle.depths(loaded),
        "mask": loaded.mask,
        "macro_f1": scores.get("macro_f1"),
    }


def _macro_f1(loaded: "Model") -> str:
    value = loaded.description.scores.get("macro_f1")
    return "not measured" if value is None else f"{value:.3f}"


def _families_text(description: "Description") -> str:
    families = [f"{name} ({', '.join(of)})" for name, of in description.families.items()]
    named = f"; named where no class is sure, from {description.family_threshold:.3f} on"
    return ", ".join(families) + named if families else ""


def _as_text(loaded: "Model") -> str:
    from etcpipe.cascade import bundle
    from etcpipe.cli.train_text import as_text

    one = loaded.description
    pairs = {
        "model": f"{loaded} (made {one.created or 'at an unknown time'} by etcpipe {one.version})",
        "classes": ", ".join(one.classes),
        "input": f"view {one.view}, {len(one.columns) or loaded.view.shape} columns, "
        f"schema {one.schema_hash}",
        "packets": f"the first {one.first_n} that count ({one.count}), "
        f"or those that came when nothing did for {one.wait_s:g} s",
        "mask": one.mask,
        "calibration": f"temperature {one.temperature:.3f}, unknown below {one.threshold:.3f}",
        "families": _families_text(one),
        "data": f"digest {one.data}" if one.data else "not stated",
        "engine": f"{loaded.engine} (without --device)",
    }
    depths = bundle.depths(loaded)
    if len(depths) > 1:
        packets = " or ".join(map(str, depths))
        pairs["stages"] = f"the last of those at {packets} packets: etcpipe cascade show FILE"
    lines = [f"{name:<12} {text}" for name, text in pairs.items() if text]
    if "confusion" in one.scores:
        lines += ["", as_text(one.scores)]
    return "\n".join(lines)
