"""etcpipe doctor: what works here, what does not, and what to do about it."""

from contextlib import nullcontext

import click

from etcpipe.cli.common import Device, Verb, is_json, option, print_json

MARKS = {"ok": "ok", "warn": "warn", "fail": "FAIL"}


@click.command(cls=Verb, configured=False)
@click.argument("device", required=False, type=Device())
@click.pass_context
def doctor(ctx: click.Context, device: str | None) -> int:
    """Check the machine, and DEVICE if one is named.

    \b
    Exit status: 0 live traffic can be classified here, 4 only rights are
    missing, 5 something is not supported. Captures can be classified
    wherever `captures`, `engine` and `model` are ok.

    \b
    Examples:
      etcpipe doctor
      etcpipe doctor eth0
    """
    from dataclasses import asdict

    from etcpipe import doctor as doctors
    from etcpipe.doctor import device as device_checks
    from etcpipe.doctor import machine

    of_device = []
    if device is not None:
        from etcpipe.kernel import netns

        place = option(ctx, "netns")
        with netns.enter(place) if place else nullcontext():
            of_device = doctors.examine(device_checks.checks(device))
    findings = doctors.examine(machine.CHECKS) + of_device
    if is_json(ctx):
        print_json(ctx, [asdict(finding) for finding in findings])
    else:
        _print(findings)
    return doctors.exit_status(findings)


def _print(findings: list) -> None:
    from etcpipe.outputs.table import Table

    rows = [
        (MARKS[f.status], f.check, f"{f.text}; {f.remedy}" if f.remedy else f.text)
        for f in findings
    ]
    click.echo("\n".join(Table(["", "check", "found"]).lines(rows)))
