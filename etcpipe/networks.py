"""Fitting a network of the zoo to labelled rows: rounds of training, and when to stop."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from etcpipe import evaluate
from etcpipe.checkpoints import Checkpoint
from etcpipe.fitting import Fitting
from etcpipe.learner import Tell, tell_nobody
from etcpipe.network_steps import Rows, Steps, choose_device, repeatable
from etcpipe.trees import class_weights
from etcpipe.zoo import Arch
from etcpipe.zoo.network import ZooNetwork

# Rows of one call where nothing is trained.
SCORED_AT_ONCE = 256


@dataclass
class Network:
    """A fitted network; a Fitted of etcpipe.learner.

    Attributes:
        module: on the CPU, not training.
        history: of each round, loss and macro-F1 on the rows that tell when to stop.
    """

    module: ZooNetwork
    rounds: int
    history: list[tuple[float, float]]

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return (flows, classes) float64, unnormalised."""
        return score(self.module, torch.from_numpy(rows), torch.device("cpu")).double().numpy()

    def parameters(self) -> int:
        """Return how many numbers were learnt."""
        return sum(parameter.numel() for parameter in self.module.parameters())


@torch.inference_mode()
def score(module: ZooNetwork, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return (flows, classes) float32 on the CPU, by a module that is not training."""
    module.eval()
    parts = [
        module(rows[i : i + SCORED_AT_ONCE].to(device)).float().cpu()
        for i in range(0, len(rows), SCORED_AT_ONCE)
    ]
    return torch.cat(parts)


class Fit:
    """One fit of a network to labelled rows, round by round."""

    def __init__(
        self, arch: Arch, module: ZooNetwork, rows: Rows, weights: np.ndarray, device: torch.device
    ) -> None:
        self._arch, self.module, self._rows, self._device = arch, module.to(device), rows, device
        self._weights = torch.from_numpy(weights.astype(np.float32)).to(device)
        self._history: list[tuple[float, float]] = []
        self._best: tuple[float, float] = (-1.0, 0.0)
        self._best_round = 0
        self._best_state: dict[str, torch.Tensor] = {}

    def run(
        self,
        rounds: int,
        horizon: int,
        seed: int,
        checkpoint: Checkpoint,
        watched: tuple[np.ndarray, np.ndarray] | None,
        patience: int,
        tell: Tell,
    ) -> Network:
        """Return the network after so many rounds, or after the best of them if watched.

        Args:
            horizon: rounds after which the learning rate would be nothing.
            watched: rows and labels that tell when to stop.
        """
        steps_a_round = self._rows.batches_a_round
        steps = Steps(self.module, self._arch, self._device, horizon * steps_a_round, seed)
        done = self._resume(checkpoint, steps)
        for number in range(done, rounds):
            if watched is not None and number - self._best_round > patience:
                break
            loss = steps.round(number, steps_a_round, self._rows.round(number), self._loss)
            f1 = self._watch(number, *watched) if watched is not None else math.nan
            self._history.append((loss, f1))
            tell(_news(number, rounds, loss, f1))
            if checkpoint.is_due():
                checkpoint.save(self._state(number + 1, steps))
        checkpoint.save(self._state(rounds, steps))
        if watched is not None:
            self.module.load_state_dict(self._best_state)
        fitted = self._best_round + 1 if watched is not None else rounds
        return Network(self.module.cpu().eval(), fitted, self._history)

    def _loss(self, rows: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        scores = self.module(rows).float()
        loss = nn.functional.cross_entropy(
            scores, label, self._weights, label_smoothing=self._arch.smoothing
        )
        return loss + self.module.extra_loss().to(loss.device)

    def _watch(self, number: int, rows: np.ndarray, label: np.ndarray) -> float:
        """Return the macro-F1 on rows that are not fitted, and note the best round so far."""
        scores = score(self.module, torch.from_numpy(rows), self._device).numpy()
        confusion = evaluate.confusion_matrix(label, scores.argmax(axis=1), scores.shape[1])
        f1 = evaluate.macro_f1(confusion)
        quality = (f1, -evaluate.negative_log_likelihood(scores, label))
        if quality > self._best:
            self._best, self._best_round = quality, number
            self._best_state = {k: v.cpu().clone() for k, v in self.module.state_dict().items()}
        return f1

    def _state(self, done: int, steps: Steps) -> dict[str, Any]:
        return {
            "done": done,
            "module": self.module.state_dict(),
            "optimiser": steps.optimiser.state_dict(),
            "history": self._history,
            "best": self._best,
            "best_round": self._best_round,
            "best_state": self._best_state,
        }

    def _resume(self, checkpoint: Checkpoint, steps: Steps) -> int:
        """Return how many rounds are done already, with everything as it was after them."""
        saved = checkpoint.load()
        if saved is None:
            return 0
        self.module.load_state_dict(saved["module"])
        steps.optimiser.load_state_dict(saved["optimiser"])
        self._history, self._best = saved["history"], saved["best"]
        self._best_round, self._best_state = saved["best_round"], saved["best_state"]
        return saved["done"]


def _news(number: int, rounds: int, loss: float, f1: float) -> str:
    watched = "" if math.isnan(f1) else f", F1 {f1:.3f}"
    return f"round {number + 1} of {rounds}, loss {loss:.3f}{watched}"


def fit(
    arch: Arch,
    rows: np.ndarray,
    label: np.ndarray,
    classes: int,
    seed: int,
    fitting: Fitting,
    checkpoint: Checkpoint,
    rounds: int | None = None,
    stop: np.ndarray | None = None,
    tell: Tell = tell_nobody,
    prepare: Callable[[ZooNetwork], None] = lambda module: None,
) -> Network:
    """Return a network fitted to rows.

    Args:
        rows: (flows, ...) of the architecture's view.
        label: (flows,) int, 0 .. classes - 1.
        rounds: exactly so many; None: as fitting or the architecture says, or less with stop.
        stop: (flows,) bool, rows to stop early on instead of fitting them.
        prepare: called with the fresh network, to load weights or to freeze some.

    Raises:
        UnsupportedError: the device is not there.
        ModelError: the training diverged.
    """
    device = choose_device(fitting.device)
    horizon = fitting.rounds or arch.rounds
    fitted = np.ones(len(rows), bool) if stop is None else ~stop
    watched = (rows[stop], label[stop]) if stop is not None and stop.any() else None
    with repeatable(device):
        torch.manual_seed(seed)
        module = arch.build(classes)
        prepare(module)
        if module.memorise(rows, label):
            return Network(module.eval(), 1, [])
        taken = Rows(rows[fitted], label[fitted], fitting.batch, seed)
        weights = class_weights(label[fitted], classes)
        run = Fit(arch, module, taken, weights, device)
        return run.run(
            horizon if rounds is None else rounds,
            max(horizon, rounds or 0),
            seed,
            checkpoint,
            watched,
            fitting.patience,
            tell,
        )
