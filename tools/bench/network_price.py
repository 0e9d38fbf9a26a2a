"""What an answer of a network costs on one core beside another's: processor time, in turns.

    OMP_NUM_THREADS=1 python tools/bench/network_price.py [--archs NAMES] [--folder DIR]
        [--flows 16] [--repeats 12] [--json]

The default is traffic_moe of size base beside its dense twins. Weights are random, files those
that a training writes for the CPU. Rows are random, in which nothing is masked or missing; with
--folder, of `etcpipe dataset build`, flows from all over it as well.
"""

import time
from pathlib import Path

import common
import numpy as np
import paired
import torch
from common import Report, Samples, Table

from etcpipe import dataset as datasets
from etcpipe.gpu.inference import open_runner
from etcpipe.gpu.tokens import TOKENS
from etcpipe.gpu.views import VIEWS
from etcpipe.model_file import Description
from etcpipe.training.network_export import to_onnx
from etcpipe.zoo import ARCHS
from etcpipe.zoo.traffic_moe import DIRECTION

CLASSES = tuple(f"class {i}" for i in range(16))
TWINS = "traffic_moe_base,dense_total_base,dense_active_base"


def runner_of(name: str):
    """Return what runs a network of random weights, as a model file does on one thread."""
    torch.manual_seed(1)
    arch = ARCHS[name]
    description = Description(name, CLASSES, arch.view, (), "", arch.first_n)
    return open_runner(to_onnx(arch.build(len(CLASSES)), description))


def random_rows(view: str, flows: int) -> np.ndarray:
    """Return rows of random bytes; of `tok`, beside plausible numbers."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 256, (flows, *VIEWS[view].shape)).astype(VIEWS[view].dtype)
    if view == "tok":
        rows[..., TOKENS:] = rng.normal(size=(*rows.shape[:2], rows.shape[2] - TOKENS))
        rows[..., DIRECTION] = 1  # all packets came
    return rows


def ms_a_flow(runners: dict, rows: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of processor time a flow of each network, in rounds of all."""
    took: dict[str, list[float]] = {name: [] for name in runners}
    for runner in runners.values():
        runner.infer(rows)
    for _, name in paired.shuffled(list(runners), rounds):
        began = time.process_time()
        runners[name].infer(rows)
        took[name].append((time.process_time() - began) / len(rows) * 1e3)
    return took


def main() -> None:
    parser = common.parser(__doc__.splitlines()[0], repeats=12)
    parser.add_argument("--archs", default=TWINS, help="names, separated by commas")
    parser.add_argument("--folder", type=Path, help="of `etcpipe dataset build`, with their view")
    parser.add_argument("--flows", type=int, default=16, help="of a call")
    options = parser.parse_args()
    runners = {name: runner_of(name) for name in options.archs.split(",")}
    first, view = next(iter(runners)), ARCHS[next(iter(runners))].view
    asked = {"random": random_rows(view, options.flows)}
    if options.folder:
        known = datasets.open_folder(options.folder).rows(view)
        asked[str(options.folder.name)] = np.array(
            known[np.linspace(0, len(known) - 1, options.flows).astype(int)]
        )
    report = Report("network_price", "What networks cost", {"torch": common.package("torch")})
    for what, rows in asked.items():
        took = ms_a_flow(runners, rows, 2 if options.quick else options.repeats or 12)
        table = Table(
            f"{what}: processor time a flow, {len(rows)} flows a call",
            ["network", "ms", f"times {first}"],
        )
        for name, values in took.items():
            ratio = paired.ratio(values, took[first]).text()
            table.rows.append([name, Samples(values).text(), ratio])
        report.tables.append(table)
        report.results[what] = took
    report.show(options.json)


if __name__ == "__main__":
    main()
