"""What can be fitted, and settings of fits; needs no optional package."""

from dataclasses import dataclass
from pathlib import Path

# Few small trees on the statistics that the kernel can compare, for --stage0 kernel.
KERNEL_TREES = "lightgbm_kernel"
# Trees on all values of a view instead of statistics: name of --arch -> view.
VIEW_TREES = {f"lightgbm_{view}": view for view in ("tok", "bits", "packet", "raw")}


@dataclass(frozen=True)
class Fitting:
    """Settings of a network's training.

    Attributes:
        rounds: at most; a round is a pass over the rows, or a bounded number of batches.
            None: as many as the network's architecture asks for.
        batch: rows of one step, at most as many as there are.
        patience: rounds without a better score on held-out captures before it stops.
        device: "cpu", "cuda", or "auto" for CUDA if it is available.
        checkpoints: folder for the state of unfinished fits; None keeps none.
        pretrained: file of `etcpipe train --pretrain` with the initial weights.
    """

    rounds: int | None = None
    batch: int = 128
    patience: int = 10
    device: str = "auto"
    checkpoints: Path | None = None
    pretrained: Path | None = None
