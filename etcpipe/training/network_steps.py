"""Rounds and steps of a network's training, with labels or without.

The same seed gives the same weights on the same machine: all random numbers of a round
(order of the rows, dropout) follow from the seed and the round, so a fit that goes on from a
checkpoint ends as one that was never cut.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from etcpipe.errors import ModelError, UnsupportedError
from etcpipe.zoo import Arch
from etcpipe.zoo.network import ZooNetwork

# A round is one pass over the rows, but between so many batches.
ROUND_MIN, ROUND_MAX = 10, 200
WARM_UP = 0.02
GRADIENT_MAX = 1.0

LossOf = Callable[..., torch.Tensor]


def choose_device(name: str) -> torch.device:
    """Return the device that "cpu", "cuda" or "auto" means.

    Raises:
        UnsupportedError: CUDA is asked for and is not there.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UnsupportedError("no CUDA device for PyTorch: train with --device cpu")
    return torch.device("cuda" if name != "cpu" and there else "cpu")


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Make what runs inside repeatable, and leave the caller's random numbers alone.

    On CUDA a few operations have no repeatable form; PyTorch warns of them and goes on.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS is not repeatable
    was = torch.are_deterministic_algorithms_enabled()
    # Nothing here reads memory that was never written, and filling it takes a tenth of a step.
    memory: Any = torch.utils.deterministic
    filled, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was)
            memory.fill_uninitialized_memory = filled


class Rows:
    """Labelled rows in an order that follows from a seed."""

    def __init__(self, rows: np.ndarray, label: np.ndarray, batch: int, seed: int) -> None:
        self.rows = torch.from_numpy(rows)
        self.label = torch.from_numpy(label.astype(np.int64))
        self.batch, self._seed = min(batch, len(rows)), seed
        self.batches_a_round = min(max(math.ceil(len(rows) / self.batch), ROUND_MIN), ROUND_MAX)

    def round(self, number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of a round, all of the same size."""
        count, size = len(self.rows), self.batches_a_round * self.batch
        first, last = number * size, number * size + size - 1
        passes = range(first // count, last // count + 1)
        order = np.concatenate([self._shuffled(one) for one in passes])[first % count :]
        for chosen in order[:size].reshape(-1, self.batch):
            yield self.rows[chosen], self.label[chosen]

    def _shuffled(self, one_pass: int) -> np.ndarray:
        return np.random.default_rng([self._seed, one_pass]).permutation(len(self.rows))


class Steps:
    """Steps of AdamW: warm-up, then a cosine down to nothing; bfloat16 on CUDA."""

    def __init__(
        self, module: ZooNetwork, arch: Arch, device: torch.device, steps: int, seed: int
    ) -> None:
        self.module, self._device, self._seed = module, device, seed
        self._steps, self._warm_up = steps, max(1, round(steps * WARM_UP))
        self.optimiser = torch.optim.AdamW(
            module.learning_rates(arch.learning_rate), weight_decay=arch.weight_decay
        )
        self._rates = [group["lr"] for group in self.optimiser.param_groups]

    def round(self, number: int, steps: int, batches: Iterator, loss_of: LossOf) -> float:
        """Return the mean loss of a round of training.

        Raises:
            ModelError: the loss is not a number any more, or memory is not enough.
        """
        torch.manual_seed(self._seed * 1_000_003 + number)
        self.module.train()
        losses = []
        for i, batch in enumerate(batches):
            step = number * steps + i
            self._set_rate(step)
            try:
                losses.append(self._step([part.to(self._device) for part in batch], loss_of))
            except RuntimeError as error:  # CUDA's own class is one; the CPU's has no name
                if "memory" not in str(error):
                    raise
                raise ModelError("not enough memory to train: take a smaller --batch") from error
            self.module.after_step(min(step / self._steps, 1.0))
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise ModelError(
                "the training diverged, its loss is not a number: report this as a bug"
            )
        return mean

    def _set_rate(self, step: int) -> None:
        share = min((step + 1) / self._warm_up, 1.0)
        share *= 0.5 + 0.5 * math.cos(math.pi * min(step / self._steps, 1.0))
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * share

    def _step(self, batch: list[torch.Tensor], loss_of: LossOf) -> torch.Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, self._device.type == "cuda"):
            loss = loss_of(*batch)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), GRADIENT_MAX)
        self.optimiser.step()
        return loss.detach()
