"""Make the model that ships, and its card, again.

    .venv/bin/python tools/train_default.py RECORDINGS... [--bundle BUNDLE]

RECORDINGS are folders that `etcpipe lab record` filled, twenty recordings or so of different
seeds in all; BUNDLE a folder of public captures with flows.csv and tasks.csv. Without a bundle
the model has no class "unknown" and knows its kinds from the lab alone.
"""

import argparse
import hashlib
import platform
import sys
from collections import Counter
from collections.abc import Iterable
from csv import DictReader
from pathlib import Path

import numpy as np

from etcpipe import evaluate, train, trees
from etcpipe.dataset import STATS, Dataset, Input, bundle_recordings, find_recordings, read
from etcpipe.model import is_refused, load
from etcpipe.verdict import UNKNOWN

CARD = Path(__file__).with_name("default_card.md.in")
MODELS = Path(__file__).parent.parent / "etcpipe" / "models"

# nDPI's names of public traffic that is clearly of a lab kind. What could be several kinds
# (SSH, TLS to some site) is left out; the lab's Shadowsocks is whole flows, the public one
# only their first 784 bytes, so that is left out too.
SAME_KIND = {
    "OpenVPN": "openvpn",
    "WireGuard": "wireguard",
    "QUIC": "quic_h3",
    "IMAPS": "imaps",
    "TLS.DoH_DoT": "dns_encrypted",
}
# Protocols that are none of the lab's kinds; nDPI's names without the site.
OTHER_KINDS = frozenset(
    "BACnet Cassandra DCERPC DHCP DHCPV6 DNP3 DNS EthernetIP FTP_CONTROL FTP_DATA HTTP IEC60870 "
    "IPSec Kerberos LDAP LLMNR MDNS Modbus MongoDB MsSQL-TDS MySQL NTP NetBIOS OPC-UA POP3 PPTP "
    "RESP Radius S7Comm SMTP SNMP SSDP STUN Syslog TFTP".split()
)
# Many flows of one protocol, or of one capture, teach little more than a few.
OTHERS_A_PROTOCOL = 150
OTHERS_A_CAPTURE = 4


def public_labels(bundle: Path) -> dict[str, str]:
    """Return flow_uid -> label of the public flows to learn from."""
    labels, taken = {}, Counter()
    with (bundle / "flows.csv").open(newline="") as file:
        rows = sorted(DictReader(file), key=lambda row: _shuffled(row["flow_uid"]))
    for row in rows:
        app = row["ndpi_app"]
        protocol = app.partition(".")[0]
        kind = SAME_KIND.get(app) or (SAME_KIND.get(protocol) if "DoH" not in app else None)
        if kind:
            labels[row["flow_uid"]] = kind
        elif protocol in OTHER_KINDS:
            here = (protocol, row["capture_id"])
            if taken[protocol] < OTHERS_A_PROTOCOL and taken[here] < OTHERS_A_CAPTURE:
                taken.update([protocol, here])
                labels[row["flow_uid"]] = UNKNOWN
    return labels


def _shuffled(flow_uid: str) -> bytes:
    return hashlib.sha256(flow_uid.encode()).digest()


def by_source(dataset: Dataset, result: train.Result, is_lab: np.ndarray) -> str:
    """Return a table that tells the lab's flows from the public ones, all held out."""
    rows = []
    for name, chosen in (("lab recordings", is_lab), ("public captures", ~is_lab)):
        if chosen.any():
            label, predicted = dataset.label[chosen], result.predicted[chosen]
            confusion = evaluate.confusion_matrix(label, predicted, len(dataset.classes))
            captures = len(np.unique(dataset.capture[chosen]))
            f1, accuracy = evaluate.macro_f1(confusion), (label == predicted).mean()
            rows.append([name, captures, len(label), f"{f1:.3f}", f"{accuracy:.3f}"])
    return _table(rows)


def on_public(dataset: Dataset, result: train.Result, is_lab: np.ndarray) -> str:
    """Return a table of how public flows fare: by the lab's flows alone, and by both."""
    rows = dataset.columns(STATS.column_names())
    known = [i for i, name in enumerate(dataset.classes) if name != UNKNOWN]
    label = np.searchsorted(known, dataset.label)
    rounds = result.report["trees"] // len(dataset.classes)
    ensemble = trees.fit(rows[is_lab], label[is_lab], len(known), 1, rounds)
    table = []
    for i, class_index in enumerate(known):
        chosen = ~is_lab & (dataset.label == class_index)
        if chosen.any():
            alone = (ensemble.scores(rows[chosen]).argmax(axis=1) == i).mean()
            both = (result.predicted[chosen] == class_index).mean()
            name = dataset.classes[class_index]
            table.append([name, int(chosen.sum()), f"{alone:.2f}", f"{both:.2f}"])
    return _table(table)


def on_public_tls(bundle: Path) -> str:
    """Return a table of what the written model says of public TLS flows, none trained on."""
    model = load(MODELS / "default.onnx")
    recordings = list(bundle_recordings(bundle, _tls))
    flows = read(recordings, Input(model.first_n, model.count, model.wait_s))
    probabilities = model.infer(flows.columns(model.columns))
    best, probability = probabilities.argmax(axis=1), probabilities.max(axis=1)
    refused = is_refused(best, probability, model.classes, model.threshold)
    said = Counter(np.where(refused, UNKNOWN, np.array(model.classes)[best]).tolist())
    return _table([name, f"{count / len(flows):.2f}"] for name, count in said.most_common())


def _tls(row: dict[str, str]) -> str | None:
    app = row["ndpi_app"]
    return "tls" if app.partition(".")[0] == "TLS" and app not in SAME_KIND else None


def card(
    dataset: Dataset,
    result: train.Result,
    is_lab: np.ndarray,
    settings: train.Settings,
    bundle: Path | None,
) -> str:
    """Return the model card, Markdown."""
    report, classes = result.report, dataset.classes
    plain = {name: value for name, value in report.items() if isinstance(value, float | int)}
    confusion = [
        [name, *(count or "" for count in row)]
        for name, row in zip(classes, report["confusion"], strict=True)
    ]
    filled = plain | report["baselines"] | report["unknown"] | {
        "first_n": settings.input.first_n,
        "mask": settings.mask,
        "kilobytes": len(result.model) / 1e3,
        "us_per_flow": result.us_per_flow,
        "machine": platform.machine(),
        "digest": dataset.digest(),
        "low": report["macro_f1_interval"][0],
        "high": report["macro_f1_interval"][1],
        "by_source": by_source(dataset, result, is_lab),
        "by_class": _table(
            [name, one["flows"], one["captures"], f"{one['f1']:.3f}"]
            for name, one in report["classes"].items()
        ),
        "confusion": _table([["", *classes], ["---", *["---:"] * len(classes)], *confusion]),
        "gains": ", ".join(f"{name} {gain}" for name, gain in report["columns_by_gain"].items()),
        "on_public_tls": on_public_tls(bundle) if bundle else "",
        "on_public": on_public(dataset, result, is_lab),
    }  # fmt: skip
    return CARD.read_text().format(**filled)


def _table(rows: Iterable[list]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def main() -> None:
    """Read, train, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recordings", type=Path, nargs="+")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    settings = train.Settings(Input(), name="default", seed=args.seed)
    recordings = [one for folder in args.recordings for one in find_recordings(folder)]
    lab_paths = {str(one.path) for one in recordings}
    if args.bundle:
        labels = public_labels(args.bundle)
        recordings += bundle_recordings(args.bundle, lambda row: labels.get(row["flow_uid"]))
    dataset = read(recordings, settings.input)
    is_lab = np.array([path in lab_paths for path in dataset.captures])[dataset.capture]
    print(f"{len(dataset)} flows of {len(dataset.captures)} captures", file=sys.stderr)
    result = train.train(
        dataset, settings, on_step=lambda what, *_: print(what, file=sys.stderr, flush=True)
    )
    (MODELS / "default.onnx").write_bytes(result.model)
    (MODELS / "default.md").write_text(card(dataset, result, is_lab, settings, args.bundle))
    print(f"macro-F1 {result.report['macro_f1']}, {result.us_per_flow:.1f} us a flow")


if __name__ == "__main__":
    main()
