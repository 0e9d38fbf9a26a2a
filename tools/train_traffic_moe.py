"""Make the Traffic-MoE that ships, and its card, again.

    OMP_NUM_THREADS=1 .venv/bin/python tools/train_traffic_moe.py RECORDINGS... --bundle BUNDLE
        [--arch traffic_moe_tiny] [--rounds 6] [--pretrain-rounds 5] [--work DIR]

RECORDINGS and BUNDLE are those of tools/train_default.py, and so are the labels. With
--pretrain-rounds the encoder first learns from the bundle's captures that have no flow with a
label here; the card then says what that was worth. --work keeps rows and unfinished fits, so
that the same command goes on where it was cut off.
"""

import argparse
import csv
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from train_default import public_labels

from etcpipe.dataset import (
    Dataset,
    Input,
    Recording,
    build,
    bundle_recordings,
    find_captures,
    find_recordings,
    is_folder,
    open_folder,
)
from etcpipe.training import family_choice, pretrain, train
from etcpipe.training.fitting import Fitting

CARD = Path(__file__).with_name("traffic_moe_card.md.in")
MODELS = Path(__file__).parent.parent / "etcpipe" / "models"
VIEW = "tok"
FOLDS = 4
NO_PRETRAINING = "The encoder began at random: there was no pre-training."


def main() -> None:
    """Read, train, write."""
    args = _arguments()
    labels = public_labels(args.bundle)
    recordings = [one for folder in args.recordings for one in find_recordings(folder)]
    recordings += bundle_recordings(args.bundle, lambda row: labels.get(row["flow_uid"]))
    dataset = _rows(args.work / "labelled", recordings)
    fitting = Fitting(
        rounds=args.rounds,
        device="cpu",
        checkpoints=args.work / "unfinished",
        pretrained=_encoder(args, labels) if args.pretrain_rounds else None,
    )
    settings = train.Settings(
        Input(), "traffic_moe", seed=args.seed, folds=FOLDS, arch=args.arch, fitting=fitting
    )
    result = train.train(dataset, settings, lambda what, *_: _say(what))
    assert result.gpu_model, f"{args.arch} has no form for GPU engines"
    (MODELS / "traffic_moe.onnx").write_bytes(result.model)
    (MODELS / "traffic_moe.gpu.onnx").write_bytes(result.gpu_model)
    (MODELS / "traffic_moe.md").write_text(_card(dataset, result, settings))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recordings", type=Path, nargs="+")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--arch", default="traffic_moe_tiny")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--pretrain-rounds", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("traffic_moe.unfinished"))
    return parser.parse_args()


def _rows(folder: Path, recordings: list[Recording]) -> Dataset:
    if not is_folder(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        build(recordings, folder, Input(), [VIEW])
    dataset = open_folder(folder)
    _say(f"{len(dataset)} flows of {len(dataset.captures)} captures")
    return dataset


def _encoder(args: argparse.Namespace, labels: dict[str, str]) -> Path:
    """Return the file of an encoder that saw no capture that scores come from."""
    kept = args.work / f"{args.arch}-{args.pretrain_rounds}.npz"
    if not kept.exists():
        with (args.bundle / "flows.csv").open(newline="") as file:
            flows = [(row["pcap"], row["flow_uid"] in labels) for row in csv.DictReader(file)]
        free = {path for path, _ in flows} - {path for path, is_labelled in flows if is_labelled}
        recordings = [one for path in sorted(free) for one in find_captures(args.bundle / path)]
        fitting = Fitting(rounds=args.pretrain_rounds, device="cpu")
        settings = pretrain.Settings(args.arch, Input(), seed=args.seed, fitting=fitting)
        made = pretrain.pretrain(_rows(args.work / "unlabelled", recordings), settings, _say)
        kept.write_bytes(made.to_bytes())
    return kept


def _card(dataset: Dataset, result: train.Result, settings: train.Settings) -> str:
    """Return the model card, Markdown."""
    report = result.report
    experts = report["experts"]
    filled = report["baselines"] | report["unknown"] | report | {
        "rounds_asked": settings.fitting.rounds,
        "kilobytes": len(result.model) / 1e3,
        "us_per_flow": result.us_per_flow,
        "machine": platform.machine(),
        "digest": dataset.digest(),
        "low": report["macro_f1_interval"][0],
        "high": report["macro_f1_interval"][1],
        "above_trees": _above(report, train.TREES),
        "pretraining": _on_pretraining(report),
        **_on_families(report["families"], family_choice.of_labels(dataset.classes)),
        "loads": "; ".join(", ".join(f"{share:.2f}" for share in one["load"]) for one in experts),
        "dead": sum(one["dead"] for one in experts),
        "dropped": report["static"]["dropped"],
        "by_class": "\n".join(
            f"| {name} | {one['flows']} | {one['captures']} | {one['f1']:.3f} |"
            for name, one in report["classes"].items()
        ),
    }  # fmt: skip
    return CARD.read_text().format(**filled)


def _above(report: dict[str, Any], name: str) -> str:
    difference, low, high = report["above_baselines"][name]
    return f"{difference:+.3f} ({low:+.3f} to {high:+.3f})"


def _on_families(worth: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {
        "family_threshold": worth["threshold"],
        "families": ", ".join(f"`{one}`" for one in names),
        "told": worth["told"],
        "told_right": worth["right"],
        "strange_wrong": worth["strange_wrong"],
    }


def _on_pretraining(report: dict[str, Any]) -> str:
    if "random_init" not in report["baselines"]:
        return NO_PRETRAINING
    baselines = report["baselines"]
    return (
        "The encoder was pre-trained on captures of the bundle without a labelled flow. Macro-F1 "
        f"with all layers tuned {report['macro_f1']:.3f}, with the encoder frozen "
        f"{baselines['frozen']:.3f}, begun at random {baselines['random_init']:.3f}; tuned "
        f"less random, with its interval: {_above(report, 'random_init')}."
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
