"""Is every barrier in the kernels needed, and would a test notice if it were not there?

    python tests/cuda_mutate.py

builds the kernels once so that each barrier can be left out by its number, and compares what
they do without each of them with the definitions. Prints a JSON object: for each barrier
(file:line), and for "none", whether anything differed. Threads that do not meet any more, or
have not come to an end in twice the time that all of it takes with all barriers, differ.
"""

import ctypes
import itertools
import json
import os
import random
import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from cuda_shim import ShimDevice, ShimError, compile_shim, digest_of, load, made_once, shim_digest
from frames import rows_of, split
from test_cuda_flow_sort import RULES, conversation
from test_cuda_flow_sort import outputs as sort_outputs
from test_regroup_agree import random_packets

from etcpipe.gpu import cuda_source
from etcpipe.gpu.flow_sort import FlowRules
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.regroup_gpu import Backend

SEEDS = range(1, 4)  # of the order of threads: odd and even ones differ in kind
NONE = -1
BARRIER = re.compile(r"__sync(?:threads|warp)\(\);")
LEFT_OUT = 'extern "C" { inline int left_out = -1; }\n'
Case = Callable[[], bool]  # whether the kernels differ from the definition


def build() -> tuple[ctypes.CDLL, list[str]]:
    """Return the kernels, which leave out barrier number `left_out`, and each barrier's place."""
    places: list[str] = []
    texts = {}
    for name, text in sorted(cuda_source.sources().items()):

        def numbered(found: re.Match, name: str = name, text: str = text) -> str:
            places.append(f"{name}:{text.count(chr(10), 0, found.start()) + 1}")
            return f"(left_out == {len(places) - 1} ? (void)0 : {found[0][:-1]});"

        texts[name] = BARRIER.sub(numbered, text)
    texts[cuda_source.MAIN] = LEFT_OUT + texts[cuda_source.MAIN]

    def make(folder: Path) -> None:
        for name, text in texts.items():
            (folder / name).write_text(text)
        compile_shim(folder, "g++")

    name = f"mutated-{digest_of(Path(__file__))}-{shim_digest()}"
    return load(made_once(name, make) / "shim.so"), places


def regroup_cases(lib: ctypes.CDLL) -> Iterator[Case]:
    """Yield comparisons of regrouping by slots."""
    # more packets than half a block, or the last merge of a sort has nothing to do
    for n, options in (
        (250, {"max_rows": 20, "raw_len": 8, "mask": "strict"}),
        (1000, {"max_rows": 2000, "raw_len": 700, "mask": "none"}),
    ):
        batches = split(random_packets(random.Random(n), n, 150), [n - 100, 100])
        regroup = Regroup(4, wait_s=0.1, slots=512, device="reference", **options)
        expected = [rows_of([regroup.add(part)]) for part in batches], rows_of([regroup.flush()])
        for seed in SEEDS:
            yield partial(regroup_differs, lib, regroup, batches, expected, seed)


def regroup_differs(lib, regroup: Regroup, batches, expected, seed: int) -> bool:
    backend = Backend(regroup.settings, ShimDevice(seed, lib))
    rows = [rows_of([backend.add(part, None)]) for part in batches]
    return (rows, rows_of([backend.flush()])) != expected


def sort_cases(lib: ctypes.CDLL) -> Iterator[Case]:
    """Yield comparisons of regrouping by a sort."""
    for flows, flows_max in ((100, 1000), (300, 40)):
        batches = split(conversation(flows, 1000, flows), [800, 200])
        rules = FlowRules(flows_max, RULES.count_rule, RULES.establish_ns, RULES.idle_ns, 10**8)
        expected = sort_outputs("reference", batches, rules=rules)
        for seed in SEEDS:
            yield partial(sort_differs, lib, rules, batches, expected, seed)


def sort_differs(lib, rules: FlowRules, batches, expected, seed: int) -> bool:
    return sort_outputs("shim", batches, seed, rules, lib) != expected


def likely_first(place: str, by_slots: list[Case], by_sort: list[Case]) -> list[Case]:
    """Return all cases, those first that a barrier's file is for."""
    return by_sort + by_slots if place.startswith("flow_sort") else by_slots + by_sort


def start(lib: ctypes.CDLL, barrier: int, cases: list[Case], limit_s: float = 0) -> int:
    """Compare without one barrier in a process of its own, which exits with 0 if all is equal.

    It dies of taking the processor for longer than `limit_s`; 0: it has all the time.
    """
    child = os.fork()
    if child:
        return child
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    ctypes.c_int.in_dll(lib, "left_out").value = barrier
    try:
        os._exit(int(any(differs() for differs in cases)))
    except ShimError:
        os._exit(1)


def main() -> None:
    lib, places = build()
    by_slots, by_sort = list(regroup_cases(lib)), list(sort_cases(lib))
    _, status, took = os.wait4(start(lib, NONE, by_slots + by_sort), 0)
    noticed = {"none": status != 0}
    limit_s = 2 * (took.ru_utime + took.ru_stime)
    running: dict[int, str] = {}
    left = iter(zip(places, itertools.count()))
    while len(noticed) <= len(places):
        for name, barrier in itertools.islice(left, (os.cpu_count() or 1) - len(running)):
            running[start(lib, barrier, likely_first(name, by_slots, by_sort), limit_s)] = name
        child, status = os.wait()
        noticed[running.pop(child)] = status != 0
    print(json.dumps(noticed))


if __name__ == "__main__":
    main()
