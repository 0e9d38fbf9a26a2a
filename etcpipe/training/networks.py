"""Fitting a network of the zoo to labelled rows: rounds of training, and when to stop."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from etcpipe.evaluation import evaluate
from etcpipe.training.checkpoints import Checkpoint
from etcpipe.training.fitting import Fitting
from etcpipe.training.learner import Lesson
from etcpipe.training.network_rounds import Quality, Rounds
from etcpipe.training.network_steps import LossOf, Rows, Steps, choose_device, repeatable
from etcpipe.training.trees import class_weights
from etcpipe.zoo import Arch
from etcpipe.zoo.network import ZooNetwork

# Rows of one call where nothing is trained.
SCORED_AT_ONCE = 256


@dataclass
class Network:
    """A fitted network; a Fitted of etcpipe.training.learner.

    Attributes:
        module: on the CPU, not training.
        history: of each round, loss and macro-F1 on the rows that tell when to stop.
    """

    module: ZooNetwork
    rounds: int
    history: list[tuple[float, float]]

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return (flows, classes) float64, unnormalised."""
        return score(self.module, rows).astype(np.float64)

    def parameters(self) -> int:
        """Return how many numbers were learnt."""
        return sum(parameter.numel() for parameter in self.module.parameters())


@torch.inference_mode()
def score(module: ZooNetwork, rows: np.ndarray) -> np.ndarray:
    """Return (flows, classes) float32, by a module that is not training."""
    module.eval()
    device = next(iter(module.state_dict().values())).device
    parts = [
        module(torch.tensor(rows[first : first + SCORED_AT_ONCE]).to(device)).float().cpu()
        for first in range(0, len(rows), SCORED_AT_ONCE)
    ]
    return torch.cat(parts).numpy()


def embed(module: ZooNetwork, rows: np.ndarray) -> np.ndarray | None:
    """Return (flows, width) float32, what the layer that scores classes takes; None without one."""
    last = module.last_layer()
    if last is None:
        return None
    parts: list[torch.Tensor] = []
    with last.register_forward_pre_hook(lambda layer, taken: parts.append(taken[0].float().cpu())):
        score(module, rows)
    return torch.cat(parts).numpy()


def fit(
    arch: Arch,
    lesson: Lesson,
    seed: int,
    fitting: Fitting,
    checkpoint: Checkpoint,
    prepare: Callable[[ZooNetwork], None] = lambda module: None,
) -> Network:
    """Return a network fitted to the rows of a lesson, which are of the architecture's view.

    With rounds in the lesson it has exactly so many, else as fitting or the architecture says,
    or less with rows that tell when to stop; those are not fitted.

    Args:
        prepare: called with the fresh network, to load weights or to freeze some.

    Raises:
        UnsupportedError: the device is not there.
        ModelError: the training diverged.
    """
    rows, label, classes, stop = lesson.rows, lesson.label, lesson.classes, lesson.stop
    device = choose_device(fitting.device)
    horizon = fitting.rounds or arch.rounds
    fitted = np.ones(len(rows), bool) if stop is None else ~stop
    with repeatable(device):
        torch.manual_seed(seed)
        module = arch.build(classes)
        prepare(module)
        if module.memorise(rows, label):
            return Network(module.eval(), 1, [])
        module.to(device)
        taken = Rows(rows[fitted], label[fitted], fitting.batch, seed)
        steps_in_all = max(horizon, lesson.rounds or 0) * taken.batches_a_round
        steps = Steps(module, arch, device, steps_in_all, seed)
        weights = torch.from_numpy(class_weights(label[fitted], classes).astype(np.float32))
        loss_of = _loss_of(module, weights.to(device), arch.smoothing)
        judge = None if stop is None or not stop.any() else _judge(module, rows[stop], label[stop])
        run = Rounds(module, taken, steps, loss_of, judge)
        run.run(lesson.rounds or horizon, fitting.patience, checkpoint, lesson.tell)
    return Network(module.cpu().eval(), run.best + 1, run.history)


def _loss_of(module: ZooNetwork, weights: torch.Tensor, smoothing: float) -> LossOf:
    def loss_of(rows: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        scores = module(rows).float()
        loss = nn.functional.cross_entropy(scores, label, weights, label_smoothing=smoothing)
        return loss + module.extra_loss().to(loss.device)

    return loss_of


def _judge(module: ZooNetwork, rows: np.ndarray, label: np.ndarray) -> Callable[[], Quality]:
    """Return what tells macro-F1 and likelihood of rows that are not fitted."""

    def judge() -> Quality:
        scores = score(module, rows)
        confusion = evaluate.confusion_matrix(label, scores.argmax(axis=1), scores.shape[1])
        return evaluate.macro_f1(confusion), -evaluate.negative_log_likelihood(scores, label)

    return judge
