"""tools/gpu_check: what its steps come to, and that nothing hangs. No GPU is needed here."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from etcpipe.gpu import cuda_compile, cuda_device

SCRIPT = Path(__file__).parents[1] / "tools" / "gpu_check"
CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.fixture(scope="module")
def check() -> ModuleType:
    loader = SourceFileLoader("gpu_check", str(SCRIPT))
    module = module_from_spec(spec_from_loader("gpu_check", loader))
    sys.modules["gpu_check"] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


def shell(check: ModuleType, name: str, script: str, limit_s: int = 30, **options: object):
    return check.Step(name, ["sh", "-c", script], limit_s, **options)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def run_check(*options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *options]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


def test_a_step_that_fails_does_not_stop_the_others(check: ModuleType, tmp_path: Path) -> None:
    steps = [
        shell(check, "bad", "echo broken; exit 7"),
        shell(check, "good", "echo 3 passed", says=check.TESTS_PASSED),
        shell(check, "skipped", "echo 5 skipped", says=check.TESTS_PASSED),
        shell(check, "absent", "true", needs=("no-such-program",)),
        shell(check, "no module", "true", needs=("module:no_such_module",)),
    ]
    outcomes = check.run_all(steps, tmp_path, "a GPU")
    assert [(o.status, o.why) for o in outcomes] == [
        (check.FAILED, "exit status 7"),
        (check.PASSED, ""),
        (check.FAILED, "no test ran"),
        (check.NOT_TRIED, "no-such-program is missing"),
        (check.NOT_TRIED, "Python package no_such_module is missing"),
    ]
    assert outcomes[0].tail == "broken\n"
    assert "broken" in (tmp_path / "log.txt").read_text()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["gpu"] == "a GPU" and report["packages"]["numpy"]
    assert [step["name"] for step in report["steps"]] == [step.name for step in steps]
    assert check.exit_status(outcomes) == 1
    assert check.exit_status(outcomes[1:2]) == 0
    assert check.exit_status(outcomes[3:]) == 3


def test_a_step_that_hangs_ends_with_its_children(check: ModuleType, tmp_path: Path) -> None:
    stubborn = "trap '' TERM; sleep 60 & echo $!; wait; wait"
    check.KILL_AFTER_S, before = 0.5, check.KILL_AFTER_S
    try:
        start = time.monotonic()
        outcome = check.run(shell(check, "hang", stubborn), tmp_path, 2)  # time for its echo
    finally:
        check.KILL_AFTER_S = before
    assert time.monotonic() - start < 20
    assert outcome.status == check.TOO_LONG
    until = time.monotonic() + 10  # a killed process goes when it is next scheduled
    while is_running(int(outcome.tail)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_running(int(outcome.tail))


def test_output_of_a_step_can_be_a_file(check: ModuleType, tmp_path: Path) -> None:
    step = shell(check, "bench", "echo '{}'; echo progress >&2", output="bench.json")
    assert check.run(step, tmp_path, 30).status == check.PASSED
    assert json.loads((tmp_path / "bench.json").read_text()) == {}
    assert "progress" in (tmp_path / "log.txt").read_text()


def test_what_ends_the_check_leaves_the_report_of_the_steps_before(
    check: ModuleType, tmp_path: Path
) -> None:
    def interrupted(step: object) -> str:
        report = json.loads((tmp_path / "report.json").read_text())
        assert [(step["name"], step["status"]) for step in report["steps"]] == [("one", "passed")]
        raise KeyboardInterrupt

    lacking = shell(check, "two", "true")
    steps = iter([shell(check, "one", "true"), lacking])
    missing, check.missing = check.missing, lambda s: interrupted(s) if s is lacking else ""
    try:
        with pytest.raises(KeyboardInterrupt):
            check.run_all(steps, tmp_path, "a GPU")
    finally:
        check.missing = missing


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that finds a GPU: the shim behind CuPy's calls."""
    folder = tmp_path_factory.mktemp("gpu")
    stubs = Path(__file__).parent / "trt_stub"
    defines = ['-DFAILS="nothing"', "-DSTATUS=0", "-DDEVICES=1"]
    driver = ["-shared", "-fPIC", *defines, "-o", folder / "libcuda.so.1", stubs / "cuda.c"]
    subprocess.run([CC, *driver], check=True)
    kernels = folder / "etcpipe" / "kernels" / cuda_compile.file_name("sm_80")
    kernels.parent.mkdir(parents=True)
    kernels.write_bytes(b"\x7fELF")
    python_path = f"{stubs / 'on_shim'}{os.pathsep}{stubs.parent}"
    found = {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": python_path}
    return {**os.environ, **found, "XDG_CACHE_HOME": str(folder)}


REHEARSED = (
    "tests/test_cuda_agree.py::test_garbage_is_read_alike",
    "tests/test_cuda_ahead.py::test_on_hardware_rows_are_those_of_one_batch_at_a_time",
    "tests/test_cuda_early.py::test_a_flow_has_a_row_at_each_depth",
    "tests/test_cuda_flow_sort.py::test_both_directions_and_both_versions_by_hand",
    "tests/test_cuda_regroup.py::test_interleaved_flows_come_apart",
    "tests/test_cuda_views.py::test_a_handshake_by_hand",
    "tests/test_inference_verdicts.py::test_on_hardware_verdicts_are_those_of_the_cpu",
)


@pytest.mark.skipif(CC is None, reason="needs a C compiler")
def test_cases_for_a_gpu_run_through_the_calls_of_cupy(
    check: ModuleType, rehearsal: dict[str, str]
) -> None:
    """What is wrong on our side of CuPy shows here, not on the day that there is a GPU."""
    pytest.importorskip("onnx", reason="making models needs etcpipe[train]")
    done = subprocess.run(
        [*check.PYTEST, "-rs", *REHEARSED],
        cwd=SCRIPT.parents[1],
        env=rehearsal,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(check.TESTS_PASSED, done.stdout) and "skipped" not in done.stdout


def test_no_step_begins_when_the_time_of_all_is_over(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "LIMIT_S", 0)
    (outcome,) = check.run_all([shell(check, "late", "true")], tmp_path, "a GPU")
    assert (outcome.status, outcome.why) == (check.NOT_TRIED, "no time left of 0 s")


def test_the_steps_fit_into_eight_minutes(check: ModuleType) -> None:
    assert sum(step.limit_s for step in check.STEPS) <= check.LIMIT_S == 8 * 60


def test_dry_run_names_tests_and_scripts_that_are_there() -> None:
    said = run_check("--dry-run")
    assert said.returncode == 0
    names = [line.split("\t")[0] for line in said.stdout.splitlines()]
    assert names == [
        "device",
        "native",
        "kernels",
        "properties",
        "engines",
        "bench",
        "memcheck",
        "racecheck",
    ]
    files = [word for word in said.stdout.split() if word.startswith(("tests/", "tools/"))]
    on_a_gpu = re.compile(r"@pytest\.mark\.gpu|import ON\b|marks=pytest\.mark\.gpu")
    with_gpu = {
        path.name
        for path in Path(__file__).parent.glob("test_*.py")
        if path != Path(__file__) and on_a_gpu.search(path.read_text())
    }
    assert len(with_gpu) >= 6
    assert with_gpu <= {Path(file).name for file in files}
    assert all((SCRIPT.parents[1] / file).exists() for file in files)


@pytest.mark.skipif(cuda_device.is_present(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_tries_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "OUT": str(tmp_path / "out")}
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=environment)
    assert done.returncode == 5
    assert "no GPU" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {step["status"] for step in report["steps"]} == {"not tried"}


def test_scripts_find_the_sources_where_nothing_is_installed(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "first")
    check.find_sources()
    assert os.environ["PYTHONPATH"] == f"first:{SCRIPT.parents[1]}"


def test_what_a_bare_machine_lacks_is_used_from_the_pack(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = subprocess.run(
        [sys.executable, SCRIPT.with_name("gpu_pack"), tmp_path / "pack"],
        capture_output=True,
        text=True,
    )
    assert packed.returncode == 0, packed.stderr
    assert list((tmp_path / "pack" / "lib").glob("libpcap.so*"))
    (tmp_path / "etcpipe").mkdir()
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "PACK", tmp_path / "pack")
    monkeypatch.setenv("PYTHONPATH", "first")
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    check.unpack()
    assert list((tmp_path / "etcpipe").glob("_native*.so"))
    assert os.environ["PYTHONPATH"] == f"first:{tmp_path}/pack/python"
    assert os.environ["LD_LIBRARY_PATH"] == ""  # it loads as it is
