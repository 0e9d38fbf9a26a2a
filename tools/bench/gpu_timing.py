"""How gpu.py times one run: packets in memory to features, and a batch's latency."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CDLL

import paper_fe
from common import Samples
from flow_load import CASES, Case, Load
from gpu_device import Gpu

from etcpipe.batch import PacketBatch
from etcpipe.gpu.flow_sort import SortRegroup
from etcpipe.gpu.regroup import Regroup
from etcpipe.model import Model
from etcpipe.pipeline import completed

PACKETS_A_TIMING = 20_000  # so that one timing takes milliseconds
LATENCY_CASE = CASES[2]
LATENCY_FLOWS = 100  # of 10 packets: one batch

# Ways to features, by the names that the report has for them.
PAPER, CPU = "paper, {} CPU", "etcpipe, {} CPU"
SCATTER, SORTED, TRANSFERS = "etcpipe, GPU", "GPU, sort + scan", "GPU transfers"

Times = dict[str, Samples]


@contextmanager
def on_cores(n: int) -> Iterator[None]:
    """Run on the last n processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-n:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def timed(
    prepare: Callable[[int], Callable[[], int]], expected: int, loops: int, repeats: int
) -> Samples:
    """Return seconds of one run, a sample a repeat, after one repeat that is not counted.

    Args:
        prepare: makes the run of a number ready, not timed.
        expected: what a run has to return.

    Raises:
        SystemExit: it returned something else.
    """
    samples = []
    for repeat in range(repeats + 1):
        took = 0.0
        for loop in range(loops):
            run = prepare(repeat * loops + loop)
            start = time.perf_counter()
            flows = run()
            took += time.perf_counter() - start
            if flows != expected:
                raise SystemExit(f"bench: {flows} flows came out of {expected}")
        samples.append(took / loops)
    return Samples(samples[1:])


def measure(
    load: Load, case: Case, library: CDLL, cores: tuple[int, ...], gpu: Gpu | None, repeats: int
) -> Times:
    """Return the seconds of all ways that can be measured here."""
    loops = max(1, PACKETS_A_TIMING // len(load.flow))
    times = {}
    for n in cores:
        with on_cores(n):
            times[PAPER.format(n)] = _paper(load, case, library, n, loops, repeats)
            times[CPU.format(n)] = _regroup(load, regroup_for(case, threads=n), loops, repeats)
    if gpu:
        times[SCATTER] = _regroup(load, regroup_for(case, device="gpu"), loops, repeats)
        times[SORTED] = _sorted(load, case, loops, repeats)
        times[TRANSFERS] = gpu.transfers(load, case, repeats)
    return times


def regroup_for(case: Case, *, threads: int = 1, device: str = "cpu") -> Regroup:
    """Return a Regroup that keeps what the paper's algorithm keeps: bytes as they are."""
    return Regroup(case.first_n, raw_len=case.raw_len, mask="none", threads=threads, device=device)


def latencies(model: Model, runs: int) -> Times:
    """Return seconds from a batch's last packet to features, and to the model's answer.

    On the CPU; Gpu.latencies() has them by events. The raw features and the model's are made
    one after the other: each from its own Regroup.
    """
    load = Load(LATENCY_CASE, LATENCY_FLOWS)
    raw = regroup_for(LATENCY_CASE)
    own = Regroup(model.first_n, raw_len=model.raw_len, mask=model.mask)
    samples: list[tuple[float, float, float]] = []
    for run in range(runs + 1):
        (batch,) = load.batches(run)
        start = time.perf_counter()
        raw.add(batch)
        raw_done = time.perf_counter()
        rows = model.rows(own.add(batch))
        rows_done = time.perf_counter()
        model.infer(rows)
        end = time.perf_counter()
        samples.append((raw_done - start, rows_done - raw_done, end - raw_done))
    names = (f"raw {LATENCY_CASE.name}", f"{model.view.name}, {model.name}", "logits of it")
    columns = zip(*samples[1:], strict=True)
    return {name: Samples(list(took)) for name, took in zip(names, columns, strict=True)}


def _paper(load: Load, case: Case, library: CDLL, cores: int, loops: int, repeats: int) -> Samples:
    batch = load.batch
    frames = (batch.memory, batch.offset, batch.captured, load.flow)
    with paper_fe.PaperExtraction(library, *frames, case.first_n, case.raw_len, cores) as paper:

        def prepare(run: int) -> Callable[[], int]:
            paper.reset()
            return paper.run

        return timed(prepare, load.flows, loops, repeats)


def _sorted(load: Load, case: Case, loops: int, repeats: int) -> Samples:
    regroup = SortRegroup(case.first_n, raw_len=case.raw_len, mask="none", device="gpu")

    def prepare(run: int) -> Callable[[], int]:
        load.give_new_addresses(run)
        batches = load.batches(run)
        return lambda: sum(len(regroup.add(batch)) for batch in batches)

    return timed(prepare, load.flows, loops, repeats)


def _regroup(load: Load, regroup: Regroup, loops: int, repeats: int) -> Samples:
    """Return seconds until all flows have come out, the arrays that they are in included."""

    def prepare(run: int) -> Callable[[], int]:
        batches = load.batches(run)
        return lambda: _flows(regroup, batches)

    return timed(prepare, load.flows, loops, repeats)


class _Batches:
    """Batches in memory as a source that nobody waits for."""

    def __init__(self, batches: list[PacketBatch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[PacketBatch]:
        return iter(self._batches)

    ahead = __iter__

    def release(self, batch: PacketBatch) -> None:
        """Nobody fills it again."""

    def clock_ns(self) -> None:
        return None


def _flows(regroup: Regroup, batches: list[PacketBatch]) -> int:
    """Return how many flows come out; a GPU has two batches at a time, as in `classify`."""
    return sum(map(len, completed(_Batches(batches), regroup)))
