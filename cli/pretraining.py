"""etcpipe train --pretrain: captures without labels in, an encoder's weights out."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etcpipe import runtime
from etcpipe.cli.common import is_json, print_json
from etcpipe.errors import UnsupportedError

if TYPE_CHECKING:
    from etcpipe.dataset import Dataset
    from etcpipe.training.pretrained import Pretrained
    from etcpipe.training.train import Settings


def learn(
    dataset: "Dataset", settings: "Settings", progress: Callable[[str, int, int], None]
) -> "Pretrained":
    """Return weights that were pre-trained on a dataset.

    Raises:
        UsageError: the architecture cannot be pre-trained.
        UnsupportedError: PyTorch or the device is not there.
    """
    try:
        from etcpipe.training import pretrain
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UnsupportedError(
            f"pre-training needs PyTorch: {runtime.remedy_for('torch')}"
        ) from error
    chosen = pretrain.Settings(
        settings.arch, settings.input, settings.mask, settings.seed, settings.fitting
    )
    return pretrain.pretrain(dataset, chosen, lambda news: progress(news, 0, 1))


def write(ctx: click.Context, output: Path, weights: "Pretrained") -> None:
    """Write the weights and say what they are worth."""
    output.write_bytes(weights.to_bytes())
    report = weights.report
    if is_json(ctx):
        print_json(ctx, {"weights": str(output), "arch": weights.arch} | report)
        return
    click.echo(
        f"{output}: {weights.arch} of {report['flows']} flows, {report['rounds']} rounds; "
        f"loss on captures held out {report['held_out_loss_before']:.3f} before, "
        f"{report['held_out_loss']:.3f} after"
    )
