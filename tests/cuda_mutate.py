"""Is every barrier in the kernels needed, and would a test notice if it were not there?

    python tests/cuda_mutate.py LIBRARY     compares a build of the kernels with the definitions

exits with 1 if they differ, or if threads do not meet any more. Threads that never come to an
end are ended after CPU_S seconds.
"""

import random
import re
import resource
import sys
from pathlib import Path

from cuda_shim import BUILDS, ShimDevice, ShimError, compile_shim, load
from frames import rows_of, split
from test_cuda_flow_sort import RULES, conversation
from test_cuda_flow_sort import outputs as sort_outputs
from test_regroup_agree import random_packets

from etcpipe.gpu import cuda_source
from etcpipe.gpu.flow_sort import FlowRules
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.regroup_gpu import Backend

CPU_S = 20  # several times what it takes
BARRIER = re.compile(r"__sync(?:threads|warp)\(\);")
BUILDS["quick"] = ["g++", "-O0"]


def barriers() -> list[tuple[str, int]]:
    """Return each barrier: its file, and where in it."""
    return [
        (name, match.start())
        for name, text in sorted(cuda_source.sources().items())
        for match in BARRIER.finditer(text)
    ]


def name_of(barrier: tuple[str, int]) -> str:
    """Return file and line of a barrier."""
    name, at = barrier
    return f"{name}:{cuda_source.sources()[name].count(chr(10), 0, at) + 1}"


def compile_without(barrier: tuple[str, int] | None, folder: Path) -> Path:
    """Return the kernels without one barrier."""
    cuda_source.write_sources(folder)
    if barrier:
        name, at = barrier
        text = cuda_source.sources()[name]
        (folder / name).write_text(text[:at] + BARRIER.sub("", text[at:], count=1))
    return compile_shim(folder, "quick")


def differs(path: Path) -> bool:
    """Return whether a build gives other results than the definitions, in any order of threads."""
    lib = load(path)
    # more packets than half a block, or the last merge of a sort has nothing to do
    for n, options in (
        (1000, {"max_rows": 2000, "raw_len": 700, "mask": "none"}),
        (250, {"max_rows": 20, "raw_len": 8, "mask": "strict"}),
    ):
        batches = split(random_packets(random.Random(n), n, 150), [n - 100, 100])
        regroup = Regroup(4, wait_s=0.1, slots=512, device="reference", **options)
        expected = [rows_of([regroup.add(part)]) for part in batches], rows_of([regroup.flush()])
        for seed in range(1, 4):
            backend = Backend(regroup.settings, ShimDevice(seed, lib))
            rows = [rows_of([backend.add(part, None)]) for part in batches]
            if (rows, rows_of([backend.flush()])) != expected:
                return True
    for flows, flows_max in ((100, 1000), (300, 40)):
        batches = split(conversation(flows, 1000, flows), [800, 200])
        rules = FlowRules(flows_max, RULES.count_rule, RULES.establish_ns, RULES.idle_ns, 10**8)
        wanted = sort_outputs("reference", batches, rules=rules)
        for seed in range(1, 4):
            if sort_outputs("shim", batches, seed, rules, lib) != wanted:
                return True
    return False


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    try:
        sys.exit(int(differs(Path(sys.argv[1]))))
    except ShimError as error:
        sys.exit(str(error))
