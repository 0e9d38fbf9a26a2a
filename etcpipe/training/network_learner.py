"""Networks of the zoo as a Learner of etcpipe.training.train."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from etcpipe.dataset import Dataset
from etcpipe.errors import ModelError, UsageError
from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.model_file import Description
from etcpipe.training import network_export, networks
from etcpipe.training.checkpoints import Checkpoint
from etcpipe.training.fitting import Fitting
from etcpipe.training.learner import Learner, Lesson
from etcpipe.training.networks import Network
from etcpipe.training.pretrained import Pretrained, check_disjoint
from etcpipe.training.pretrained import load as load_pretrained
from etcpipe.zoo import ARCHS
from etcpipe.zoo.network import ZooNetwork

if TYPE_CHECKING:
    from etcpipe.training.train import Settings


# Flows on which what static dispatch drops is counted.
CHECKED_MAX = 2000


class NetworkLearner(Learner):
    """Fits one architecture of the zoo."""

    batch = 64
    # Ties that float32 sums decide, for experts as for classes.
    agreement = 0.999

    def __init__(
        self,
        arch: str,
        seed: int,
        fitting: Fitting,
        data: str,
        pretrained: Pretrained | None = None,
        is_frozen: bool = False,
    ) -> None:
        """Choose an architecture.

        Args:
            arch: a name of ARCHS.
            data: digest of the training rows, so that no checkpoint of others is used.
            pretrained: weights to begin with.
            is_frozen: whether these stay as they are, and only the head is fitted.

        Raises:
            UnsupportedError: the device is not there.
        """
        self.arch = ARCHS[arch]
        self.view = self.arch.view
        self._seed, self._fitting = seed, fitting
        self._pretrained, self._is_frozen = pretrained, is_frozen
        self._device = networks.choose_device(fitting.device).type
        start = f"{pretrained.report} frozen {is_frozen}" if pretrained else "fresh"
        self._start = ("frozen-" if is_frozen else "tuned-") if pretrained else ""
        self._identity = (
            f"{arch} seed {seed} data {data} rounds {fitting.rounds} batch {fitting.batch} "
            f"patience {fitting.patience} on {self._device} from {start}"
        )

    def learn(self, lesson: Lesson) -> Network:
        """Return a network; with rows that tell when to stop, the best round's."""
        checkpoint = Checkpoint(self._fitting.checkpoints, self._start + lesson.key, self._identity)
        return networks.fit(self.arch, lesson, self._seed, self._fitting, checkpoint, self._prepare)

    def _prepare(self, module: ZooNetwork) -> None:
        if self._pretrained:
            weights = {
                name: torch.from_numpy(value) for name, value in self._pretrained.weights.items()
            }
            module.take_encoder(weights, self._is_frozen)

    def facts(self, fitted: Network, rows: np.ndarray) -> dict[str, Any]:
        facts = {"parameters": fitted.parameters(), "trained_on": self._device}
        return facts | fitted.module.facts() | fitted.module.static_facts(rows[:CHECKED_MAX])

    def embed(self, fitted: Network, rows: np.ndarray) -> np.ndarray | None:
        """Return (flows, width) float64, what the network's last layer takes; None without one."""
        embedded = networks.embed(fitted.module, rows)
        return None if embedded is None else embedded.astype(np.float64)

    def export(self, fitted: Network, description: Description) -> bytes:
        return network_export.to_onnx(fitted.module, description)

    def export_for_gpu(self, fitted: Network, description: Description) -> bytes | None:
        with fitted.module.static() as has_another:
            return network_export.to_onnx(fitted.module, description) if has_another else None


def learners(
    dataset: Dataset, settings: "Settings"
) -> tuple[NetworkLearner, dict[str, NetworkLearner]]:
    """Return the learner of a training, and those that it is compared with.

    Who begins with weights of a pre-training is compared with the same network whose encoder
    is frozen, and with one that begins at random: without the second, nobody knows whether
    the pre-training did anything.

    Raises:
        UsageError: the rows were read otherwise, or captures were in the pre-training.
        ModelError: the weights are damaged, or of another network.
    """
    fitting, data = settings.fitting, dataset.digest()
    fresh = NetworkLearner(settings.arch, settings.seed, fitting, data)
    if fresh.view in dataset.views and dataset.mask != settings.mask:
        raise UsageError(f"the rows were read under mask {dataset.mask}, not {settings.mask}")
    if fitting.pretrained is None:
        return fresh, {}
    weights = load_pretrained(fitting.pretrained)
    schema = schema_hash(VIEWS[fresh.view], settings.input.first_n, settings.mask)
    if (weights.arch, weights.schema_hash) != (settings.arch, schema):
        raise ModelError(
            f"{fitting.pretrained} is a pre-trained {weights.arch}, or of other inputs: "
            f"pre-train {settings.arch} with the same --first and --mask"
        )
    check_disjoint(weights, dataset)
    tuned, frozen = (
        NetworkLearner(settings.arch, settings.seed, fitting, data, weights, is_frozen)
        for is_frozen in (False, True)
    )
    return tuned, {"frozen": frozen, "random_init": fresh}
