"""Networks of the zoo as a Learner of etcpipe.train."""

from typing import Any

import numpy as np

from etcpipe import network_export, networks
from etcpipe.checkpoints import Checkpoint
from etcpipe.dataset import Dataset
from etcpipe.fitting import Fitting
from etcpipe.learner import Tell, tell_nobody
from etcpipe.model_file import Description
from etcpipe.networks import Network
from etcpipe.zoo import ARCHS


class NetworkLearner:
    """Fits one architecture of the zoo."""

    columns: tuple[str, ...] = ()
    # One fit a class would take longer than all that is reported.
    left_out: int | None = 3
    batch = 64
    # Ties that float32 sums decide, for experts as for classes.
    agreement = 0.999

    def __init__(self, arch: str, seed: int, fitting: Fitting, data: str) -> None:
        """Choose an architecture.

        Args:
            arch: a name of ARCHS.
            data: digest of the training rows, so that no checkpoint of others is used.
        """
        self.arch = ARCHS[arch]
        self.view = self.arch.view
        self._seed, self._fitting = seed, fitting
        self._device = networks.choose_device(fitting.device).type
        self._identity = (
            f"{arch} seed {seed} data {data} rounds {fitting.rounds} batch {fitting.batch} "
            f"patience {fitting.patience} on {self._device}"
        )

    def rows(self, dataset: Dataset) -> np.ndarray:
        return dataset.rows(self.view)

    def fit(
        self,
        rows: np.ndarray,
        label: np.ndarray,
        classes: int,
        key: str,
        rounds: int | None = None,
        stop: np.ndarray | None = None,
        tell: Tell = tell_nobody,
    ) -> Network:
        """Return a network; with rows that tell when to stop, the best round's."""
        checkpoint = Checkpoint(self._fitting.checkpoints, key, self._identity)
        return networks.fit(
            self.arch,
            rows,
            label,
            classes,
            self._seed,
            self._fitting,
            checkpoint,
            rounds,
            stop,
            tell,
        )

    def facts(self, fitted: Network) -> dict[str, Any]:
        facts = {"parameters": fitted.parameters(), "trained_on": self._device}
        return facts | fitted.module.facts()

    def export(self, fitted: Network, description: Description) -> bytes:
        return network_export.to_onnx(fitted.module, description)
