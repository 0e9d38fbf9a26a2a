"""Make the model that ships, and its card, again.

    .venv/bin/python tools/train_default.py RECORDINGS... [--bundle BUNDLE]

RECORDINGS are folders that `etcpipe lab record` filled, one for each system whose programs the
model is to know and named like it, with recordings of different seeds; BUNDLE a folder of public
captures with flows.csv and tasks.csv. Without a bundle the model has no class "unknown" and knows
its kinds from the lab alone.
"""

import argparse
import hashlib
import sys
from collections import Counter
from csv import DictReader
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import default_card
import numpy as np
from default_card import SAME_KIND, Facts
from default_cascade import Stages

from etcpipe.cascade import bundle
from etcpipe.cascade.choose import Settled
from etcpipe.cascade.rows import DepthRows, read_at_depths
from etcpipe.dataset import Input, bundle_recordings, find_recordings
from etcpipe.training import train
from etcpipe.verdict import UNKNOWN

MODELS = Path(__file__).parent.parent / "etcpipe" / "models"
# Packets with payload at which a flow may be answered. SSH sessions are alike up to 19. One more
# stage at 5 would answer two flows of three there, but cost classify a third of its flows a second.
DEPTHS = (10, 50)

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


def main() -> None:
    """Read, train, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recordings", type=Path, nargs="+")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    by_folder = [find_recordings(folder) for folder in args.recordings]
    recordings = [one for folder in by_folder for one in folder]
    source_of = {str(one.path): i for i, folder in enumerate(by_folder) for one in folder}
    sources = [f"lab, {folder.resolve().name}" for folder in args.recordings]
    if args.bundle:
        labels = public_labels(args.bundle)
        recordings += bundle_recordings(args.bundle, lambda row: labels.get(row["flow_uid"]))
    rows = read_at_depths(recordings, DEPTHS, Input())
    dataset = rows.deepest
    source = np.array([source_of.get(path, len(sources)) for path in dataset.captures])
    _say(f"{len(rows)} flows of {len(dataset.captures)} captures")
    results = {depth: _trained(rows, depth, args.seed) for depth in DEPTHS}
    stages = Stages(rows, results)
    choice, settled = stages.choose(np.ones(len(rows), bool), args.seed)
    _say(f"stages {[results_at(one) for one in settled]}, F1 kept: {choice}")
    (MODELS / "default.onnx").write_bytes(_file(stages, settled, rows, results))
    answers = stages.crossed(args.seed)
    facts = Facts(
        rows, results, stages, settled, answers, sources, source[dataset.capture], args.seed
    )
    (MODELS / "default.md").write_text(default_card.card(facts, args.bundle))


def results_at(one: Settled) -> tuple[int, float | None]:
    """Return the depth of a stage, and from which probability on it is sure."""
    return DEPTHS[one.candidate], one.rule.probability if one.rule else None


def _trained(rows: DepthRows, depth: int, seed: int) -> train.Result:
    name = "default" if depth == DEPTHS[-1] else f"default-{depth}"
    settings = train.Settings(replace(rows.input, first_n=depth), name, seed=seed)
    result = train.train(
        rows.datasets[depth], settings, lambda what, *_: _say(f"{depth} packets: {what}")
    )
    _say(f"{depth} packets: macro-F1 {result.report['macro_f1']}, {result.us_per_flow:.1f} us")
    return result


def _file(
    stages: Stages, settled: list[Settled], rows: DepthRows, results: dict[int, train.Result]
) -> bytes:
    """Return the model file: the last stage's, with the others inside."""
    cascade = stages.cascade(settled, rows.input.wait_s)
    with TemporaryDirectory() as folder:
        files = [Path(folder, stage.model) for stage in cascade.stages]
        for file, stage in zip(files, cascade.stages, strict=True):
            file.write_bytes(results[stage.packets].model)
        return bundle.embed(cascade, files)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
