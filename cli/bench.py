"""etcpipe bench: the project's measures beside its peers, from a source checkout."""

import json
import subprocess
import sys
from pathlib import Path

import click

from etcpipe.cli.common import Verb, is_json, print_json
from etcpipe.errors import UnsupportedError

SCRIPTS = Path(__file__).resolve().parents[1] / "tools" / "bench"
BENCHMARKS = (
    *("classify", "raw_path", "specialised", "gpu"),
    *("forward", "wire", "start", "kernel", "mirror"),
)


@click.command(cls=Verb)
@click.argument("which", type=click.Choice([*BENCHMARKS, "all"]), default="all", metavar="[WHAT]")
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Also write the report to FILE."
)
@click.option("--quick", is_flag=True, help="Small inputs: shows that it works, gives no figures.")
@click.option(
    "--repeats", type=click.IntRange(1, 100), help="How often each measurement is repeated."
)
@click.pass_context
def bench(
    ctx: click.Context, which: str, output: str | None, quick: bool, repeats: int | None
) -> int:
    """Measure etcpipe beside its peers on this machine.

    WHAT is classify, raw_path, specialised, gpu, forward, wire, start, kernel, mirror, or all,
    the default. Reports are Markdown tables with the machine and its load (docs/benchmarks).
    All of it takes ten to twenty minutes. All but classify, raw_path, specialised and gpu need
    root.

    \b
    Examples:
      etcpipe bench --quick
      etcpipe bench classify -o classify.md
    """
    if not SCRIPTS.is_dir():
        raise UnsupportedError("bench runs from a source checkout: git clone, then make bench")
    as_json = is_json(ctx)
    options = [
        *(["--quick"] if quick else []),
        *(["--repeats", str(repeats)] if repeats else []),
        *(["--json"] if as_json else []),
    ]
    status, reports = 0, []
    for name in BENCHMARKS if which == "all" else (which,):
        script = [sys.executable, str(SCRIPTS / f"{name}.py"), *options]
        done = subprocess.run(script, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            status = status or done.returncode
            continue
        reports.append(done.stdout)
        if not as_json:
            click.echo(done.stdout)
    if as_json:
        print_json(ctx, [json.loads(report) for report in reports])
    if output:
        Path(output).write_text(f"[{','.join(reports)}]" if as_json else "\n".join(reports))
    return status
