"""The networks that `etcpipe train --arch` knows, one file a family.

A network takes the rows of its view as they are (bytes stay uint8 until they are in the
graph) and gives one unnormalised score a class: see etcpipe.zoo.network.

PyTorch is imported when a network is built, so that names and settings cost nothing.
"""

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from etcpipe.gpu.views import VIEWS

if TYPE_CHECKING:
    from etcpipe.zoo.network import ZooNetwork


@dataclass(frozen=True)
class Arch:
    """An architecture and how it is trained.

    Attributes:
        view: name of the view whose rows it takes.
        module, make: where its class is: etcpipe.zoo.MODULE.MAKE(classes, **options).
        first_n: packets of a flow that it waits for unless the user says otherwise.
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


def _arch(
    name: str,
    view: str,
    made: str,
    summary: str,
    options: dict[str, Any] | None = None,
    **more: Any,
) -> Arch:
    """Return an architecture; made is MODULE.MAKE."""
    module, make = made.split(".")
    shown = VIEWS[view].packets
    return Arch(name, summary, view, module, make, options or {}, shown or 10, **more)


_LITE = {"channels": (32, 64, 128), "kernel": 5, "pools": (1, 2, 2), "hidden": 128}

_TRANSFORMERS = {
    "traffic_moe": "fields of packets, transformer with experts",
    "dense_active": "its twin with the units that a token meets, dense",
    "dense_total": "its twin with all units, dense",
}

ARCHS: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        _arch("knn", "seq", "knn.Knn", "the five nearest flows"),
        _arch("datanet_mlp", "packet", "datanet.DatanetMlp", "one packet, perceptron"),
        _arch("deeppacket", "packet", "deeppacket.DeepPacket", "one packet, convolutions"),
        _arch("deeppacket_1000", "packet", "deeppacket.DeepPacket", "the same on 1000 bytes",
              {"length": 1000}),
        _arch("bilstm_att", "raw1500", "bilstm_att.BiLstmAttention", "packets, LSTM, attention"),
        _arch("bilstm_att_1000", "raw", "bilstm_att.BiLstmAttention", "the same on 1000 bytes",
              {"length": 1000}),
        _arch("tscrnn", "raw", "tscrnn.Tscrnn", "packets, convolutions and LSTM"),
        _arch("matec", "raw", "matec.Matec", "packets, attention between them"),
        _arch("df30", "seq", "df.DeepFingerprinting", "sizes, directions and gaps, convolutions"),
        _arch("df30_lite", "seq", "df.DeepFingerprinting", "the same, fewer and smaller", _LITE),
        _arch("fsnet", "seq", "fsnet.FsNet", "sizes, GRU encoder and decoder"),
        _arch("yatc", "image", "yatc.Yatc", "image of packets, transformer (YaTC)",
              weight_decay=0.05),
        *(
            _arch(f"{kind}_{size}", "tok", "traffic_moe.TrafficMoe", summary,
                  {"size": size, "kind": kind}, weight_decay=0.05, rounds=40, smoothing=0.05)
            for kind, summary in _TRANSFORMERS.items() for size in ("tiny", "small", "base")
        ),
    )
}  # fmt: skip
