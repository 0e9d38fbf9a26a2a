"""Made-up labelled flows, so that a training knows what there is to learn."""

import numpy as np

from etcpipe.dataset import STATS, Dataset

EVERY = STATS.column_names("none")


def made_up(classes=3, captures=6, flows=480, seed=0, is_shuffled=False, views=None):
    """A dataset whose classes differ in s_bytes_mean alone, or in nothing if shuffled.

    Args:
        views: makes further views of the labels and a random generator.
    """
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, flows).astype(np.int32)
    stats = rng.normal(500, 100, (flows, len(EVERY))).astype(np.float32)
    stats[:, EVERY.index("s_bytes_mean")] += 400 * label
    return Dataset(
        stats=stats,
        seq=rng.normal(0, 1, (flows, 30, 3)).astype(np.float32),
        label=rng.permutation(label) if is_shuffled else label,
        capture=(np.arange(flows) % captures).astype(np.int32),
        classes=tuple(f"class{i}" for i in range(classes)),
        captures=tuple(f"{i}.pcap" for i in range(captures)),
        views=views(label, rng) if views else {},
    )
