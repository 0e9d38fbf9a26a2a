"""Rounds of a network's training, one after the other, until there is no more to gain."""

import math
from collections.abc import Callable
from typing import Any

import torch

from etcpipe.training.checkpoints import Checkpoint
from etcpipe.training.learner import Tell
from etcpipe.training.network_steps import LossOf, Rows, Steps
from etcpipe.zoo.network import ZooNetwork

Quality = tuple[float, float]


class Rounds:
    """The rounds of one fit, and which of them was the best.

    Attributes:
        history: of each round, its loss and the first number of its quality.
        best: the round that is the best so far, counted from 0.
    """

    def __init__(
        self,
        module: ZooNetwork,
        rows: Rows,
        steps: Steps,
        loss_of: LossOf,
        judge: Callable[[], Quality] | None = None,
        judged_by: str = "F1",
    ) -> None:
        """Prepare the rounds.

        Args:
            loss_of: rows and labels of a batch -> loss.
            judge: tells after each round how good the network is, higher is better; None: the
                last round is the best one.
            judged_by: name of the first number of the quality.
        """
        self.history: list[tuple[float, float]] = []
        self.best = 0
        self._module, self._rows, self._steps, self._loss_of = module, rows, steps, loss_of
        self._judge, self._judged_by = judge, judged_by
        self._quality: Quality = (-math.inf, -math.inf)
        self._best_state: dict[str, torch.Tensor] = {}

    def run(self, rounds: int, patience: int, checkpoint: Checkpoint, tell: Tell) -> None:
        """Train, and leave the module as it was after the best round."""
        done = self._resume(checkpoint)
        for number in range(done, rounds):
            if self._judge and number - self.best > patience:
                break
            size = self._rows.batches_a_round
            loss = self._steps.round(number, size, self._rows.round(number), self._loss_of)
            self.history.append((loss, self._judged(number)))
            tell(self._news(rounds))
            if checkpoint.is_due():
                checkpoint.save(self._state())
        checkpoint.save(self._state())
        if self._judge:
            self._module.load_state_dict(self._best_state)

    def _judged(self, number: int) -> float:
        if self._judge is None:
            self.best = number
            return math.nan
        quality = self._judge()
        if quality > self._quality:
            self._quality, self.best = quality, number
            state = self._module.state_dict()
            self._best_state = {name: value.cpu().clone() for name, value in state.items()}
        return quality[0]

    def _news(self, rounds: int) -> str:
        loss, quality = self.history[-1]
        judged = f", {self._judged_by} {quality:.3f}" if self._judge else ""
        return f"round {len(self.history)} of {rounds}, loss {loss:.3f}{judged}"

    def _state(self) -> dict[str, Any]:
        return {
            "module": self._module.state_dict(),
            "optimiser": self._steps.optimiser.state_dict(),
            "history": self.history,
            "best": self.best,
            "best_state": self._best_state,
            "quality": self._quality,
        }

    def _resume(self, checkpoint: Checkpoint) -> int:
        """Return how many rounds are done already, with everything as it was after them."""
        saved = checkpoint.load()
        if saved is None:
            return 0
        self._module.load_state_dict(saved["module"])
        self._steps.optimiser.load_state_dict(saved["optimiser"])
        self.history, self._quality = saved["history"], saved["quality"]
        self.best, self._best_state = saved["best"], saved["best_state"]
        return len(self.history)
