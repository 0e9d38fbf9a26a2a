"""What is fitted and how; apart from models themselves, so that no package is needed here."""

from dataclasses import dataclass
from pathlib import Path

# Few and small trees on those statistics that the kernel compares: what --stage0 kernel takes.
KERNEL_TREES = "lightgbm_kernel"
# Trees that read all numbers of a view instead of statistics, by their name of --arch.
VIEW_TREES = {f"lightgbm_{view}": view for view in ("tok", "bits", "packet", "raw")}


@dataclass(frozen=True)
class Fitting:
    """Settings of a network's training.

    Attributes:
        rounds: at most; a round is a pass over the rows, or a bounded number of batches.
            None: as many as the network's architecture asks for.
        batch: rows of one step, at most as many as there are.
        patience: rounds without a better score on held-out captures before it stops.
        device: "cpu", "cuda", or "auto" for CUDA where it is there.
        checkpoints: folder for the state of unfinished fits; None keeps none.
        pretrained: file of `etcpipe train --pretrain` to begin with.
    """

    rounds: int | None = None
    batch: int = 128
    patience: int = 10
    device: str = "auto"
    checkpoints: Path | None = None
    pretrained: Path | None = None
