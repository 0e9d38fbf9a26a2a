"""What the training may ask of a network of the zoo; each has a default that does nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


class ZooNetwork(nn.Module):
    """A network that takes the rows of a view and gives (flows, classes) scores."""

    def memorise(self, rows: np.ndarray, label: np.ndarray) -> bool:
        """Return whether looking at the rows once is the whole training, and do it then."""
        return False

    def extra_loss(self) -> torch.Tensor:
        """Return what is added to the loss of the last forward(), a scalar."""
        return torch.zeros(())

    def after_step(self, progress: float) -> None:
        """Do what follows each step of the optimiser.

        Args:
            progress: of the training, 0 to 1.
        """

    def last_layer(self) -> nn.Linear | None:
        """Return what gives the scores: the linear layer that was made last; None without any."""
        linear = [one for one in self.modules() if isinstance(one, nn.Linear)]
        return linear[-1] if linear else None

    def learning_rates(self, rate: float) -> list[dict[str, Any]]:
        """Return groups of parameters with the learning rate of each."""
        return [{"params": [one for one in self.parameters() if one.requires_grad], "lr": rate}]

    def pretraining(self) -> "ZooNetwork | None":
        """Return what pre-trains this network: rows in, loss out; None if nothing does."""
        return None

    def encoder_weights(self) -> dict[str, torch.Tensor]:
        """Return what a pre-training leaves to networks of the same architecture."""
        return {}

    def take_encoder(self, weights: dict[str, torch.Tensor], is_frozen: bool) -> None:
        """Begin with weights of a pre-training, and leave them as they are if frozen."""

    def facts(self) -> dict[str, Any]:
        """Return what the report says of a fitted network, beside its number of parameters."""
        return {}

    @contextmanager
    def static(self) -> Iterator[bool]:
        """Use a form whose shapes are all known, as GPU engines want it; True if there is one."""
        yield False

    def static_facts(self, rows: np.ndarray) -> dict[str, Any]:
        """Return how the static form differs on rows, if there is one."""
        return {}
