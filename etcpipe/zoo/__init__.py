"""The networks that `etcpipe train --arch` knows, one file a family.

A network takes the rows of its view as they are (bytes stay uint8 until they are in the
graph) and gives one unnormalised score a class: see etcpipe.zoo.network.

PyTorch is imported when a network is built, so that names and settings cost nothing.
"""

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etcpipe.zoo.network import ZooNetwork


@dataclass(frozen=True)
class Arch:
    """An architecture and how it is trained.

    Attributes:
        view: name of the view whose rows it takes.
        module, make: where its class is: etcpipe.zoo.MODULE.MAKE(classes, **options).
        first_n: packets of a flow that it is given unless the user says otherwise.
        rounds: of training at most.
        smoothing: of labels, in the loss.
    """

    name: str
    summary: str
    view: str
    module: str
    make: str
    options: dict[str, Any] = field(default_factory=dict)
    first_n: int = 10
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    rounds: int = 60
    smoothing: float = 0.0

    def build(self, classes: int) -> "ZooNetwork":
        """Return the network with fresh weights from PyTorch's random numbers."""
        made = getattr(import_module(f"etcpipe.zoo.{self.module}"), self.make)
        return made(classes, **self.options)


def _on_packets(name: str, summary: str, **options: Any) -> Arch:
    return Arch(name, summary, "seq", "df", "DeepFingerprinting", options, first_n=30)


_LITE = {"channels": (32, 64, 128), "kernel": 5, "pools": (1, 2, 2), "hidden": 128}

ARCHS: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        Arch("datanet_mlp", "one packet, perceptron", "packet", "datanet", "DatanetMlp", first_n=1),
        _on_packets("df30", "30 packets, convolutions (Deep Fingerprinting)"),
        _on_packets("df30_lite", "30 packets, fewer convolutions", **_LITE),
    )
}
