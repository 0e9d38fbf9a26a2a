"""Print how the scores of a model depend on the packets that it sees, as a Markdown table.

    .venv/bin/python tools/packets_needed.py RECORDINGS

RECORDINGS must hold enough of each flow: `etcpipe lab record --first 128`.
"""

import argparse
from pathlib import Path

from etcpipe.dataset import Input, find_recordings, read
from etcpipe.evaluation import evaluate
from etcpipe.training.held_out import judge
from etcpipe.training.learner import TreeLearner

FIRST = (3, 5, 10, 16, 24, 32, 48, 64)
SHOWN = ("ssh_shell", "ssh_transfer", "https_bulk", "https_page", "video_hls")


def main() -> None:
    """Read the recordings once for each number of packets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path)
    folder = parser.parse_args().recordings
    print("| `--first` | macro-F1 | " + " | ".join(SHOWN) + " |")
    print("| ---: |" + " ---: |" * (1 + len(SHOWN)))
    for first_n in FIRST:
        dataset = read(find_recordings(folder), Input(first_n))
        judged = judge(dataset, TreeLearner("strict", 1), 5, 1, lambda what, done, total: None)
        scores = evaluate.score(
            dataset.label, judged.scores.argmax(axis=1), dataset.capture, len(dataset.classes), 1
        )
        by_class = dict(zip(dataset.classes, evaluate.class_f1(scores.confusion), strict=True))
        cells = [f"{scores.macro_f1:.2f} ({scores.low:.2f} to {scores.high:.2f})"]
        cells += [f"{by_class[name]:.2f}" for name in SHOWN]
        print(f"| {first_n} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
