"""Pre-training: an encoder of the zoo learns from flows without labels."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from etcpipe.dataset import Dataset, Input
from etcpipe.errors import UsageError
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.training.checkpoints import Checkpoint
from etcpipe.training.fitting import Fitting
from etcpipe.training.learner import Tell, tell_nobody
from etcpipe.training.network_rounds import Quality, Rounds
from etcpipe.training.network_steps import LossOf, Rows, Steps, choose_device, repeatable
from etcpipe.training.networks import SCORED_AT_ONCE
from etcpipe.training.pretrained import Pretrained
from etcpipe.zoo import ARCHS
from etcpipe.zoo.network import ZooNetwork

# One capture of so many is not learnt from: its loss tells the best round.
HELD_OUT = 10
# Hidden fields of these flows are always the same ones, so that rounds compare.
JUDGED_SEED, JUDGED_MAX = 77, 2048


@dataclass(frozen=True)
class Settings:
    """What to pre-train, apart from the data; see train.Settings."""

    arch: str
    input: Input
    mask: str = "strict"
    seed: int = 1
    fitting: Fitting = field(default_factory=Fitting)


def pretrain(dataset: Dataset, settings: Settings, tell: Tell = tell_nobody) -> Pretrained:
    """Return an encoder that tells hidden fields of a dataset's flows; labels are not used.

    Raises:
        UsageError: the architecture cannot be pre-trained.
        UnsupportedError: the device is not there.
    """
    arch = ARCHS.get(settings.arch)
    if arch is None:
        raise UsageError(f"{settings.arch} has no pre-training: choose a network with --arch")
    device = choose_device(settings.fitting.device)
    rounds = settings.fitting.rounds or arch.rounds
    checkpoint = Checkpoint(
        settings.fitting.checkpoints, "pretrain", f"{settings} data {dataset.digest()}"
    )
    rows, held_out = _split(dataset, arch.view)
    with repeatable(device):
        torch.manual_seed(settings.seed)
        network = arch.build(2)
        module = network.pretraining()
        if module is None:
            raise UsageError(
                f"{arch.name} has no pre-training: choose a traffic_moe, a dense twin, or yatc"
            )
        module.to(device)
        taken = Rows(rows, np.zeros(len(rows)), settings.fitting.batch, settings.seed)
        steps = Steps(module, arch, device, rounds * taken.batches_a_round, settings.seed)
        judge = _judge(module, held_out)
        before = judge()[0]
        run = Rounds(module, taken, steps, _loss_of(module), judge, "held-out likelihood")
        run.run(rounds, settings.fitting.patience, checkpoint, tell)
    return Pretrained(
        arch=arch.name,
        schema_hash=schema_hash(VIEWS[arch.view], settings.input.first_n, settings.mask),
        captures=tuple(sorted(dataset.capture_digests())),
        report={"flows": len(rows), "held_out_flows": len(held_out)}
        | _loss_report(run, before)
        | network.facts(),
        weights={name: value.cpu().numpy() for name, value in network.encoder_weights().items()},
    )


def _loss_report(run: Rounds, before: float) -> dict[str, float]:
    return {
        "rounds": run.best + 1,
        "held_out_loss": round(-run.history[run.best][1], 4),
        "held_out_loss_before": round(-before, 4),
    }


def _split(dataset: Dataset, view: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to learn from and rows of other captures; of one capture, its last tenth."""
    rows = dataset.rows(view)
    captures = len(dataset.captures)
    if captures > 1:
        is_out = dataset.capture >= captures - max(captures // HELD_OUT, 1)
    else:
        is_out = np.arange(len(rows)) >= len(rows) - max(len(rows) // HELD_OUT, 1)
    return rows[~is_out], rows[is_out][:JUDGED_MAX]


def _loss_of(module: ZooNetwork) -> LossOf:
    def loss_of(rows: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        loss = module(rows)
        return loss + module.extra_loss().to(loss.device)

    return loss_of


def _judge(module: ZooNetwork, rows: np.ndarray) -> Callable[[], Quality]:
    shown = torch.from_numpy(rows)

    @torch.inference_mode()
    def judge() -> Quality:
        device = next(module.parameters()).device
        module.eval()
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(JUDGED_SEED)
            losses = [
                float(module(some.to(device))) * len(some) for some in shown.split(SCORED_AT_ONCE)
            ]
        return -sum(losses) / max(len(shown), 1), 0.0

    return judge
