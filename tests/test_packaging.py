"""The wheel holds all of the project that runs, under one import package."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from etcpipe.gpu import cuda_source

ROOT = Path(__file__).parents[1]
NEEDED = (
    "bpf/*.h",
    "bpf/*.bpf.c",
    "bpf/*.bpf.o",
    "gpu/*.py",
    "gpu/*.cu",
    "gpu/*.cuh",
    "gpu/*.h",
    "cli/*.py",
)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Names in a wheel built from the files that git tracks, and the BPF objects."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, tracked.stdout.split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target, follow_symlinks=False)
    for built in (ROOT / "bpf").glob("*.bpf.o"):
        shutil.copy(built, source / "bpf")
    setup = source / "setup.py"  # what is in the wheel counts, not how fast it is
    setup.write_text(setup.read_text().replace('"-O3"', '"-O0"'))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    command += ["-w", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    assert "-abi3-" in wheel.name
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_everything_that_runs_is_in_the_wheel(names):
    for pattern in NEEDED:
        for path in ROOT.glob(pattern):
            assert f"etcpipe/{path.relative_to(ROOT).as_posix()}" in names
    for path in (ROOT / "etcpipe").glob("**/*.py"):
        if not {"bpf", "gpu", "cli"} & set(path.relative_to(ROOT / "etcpipe").parts[:1]):
            assert path.relative_to(ROOT).as_posix() in names
    for name in cuda_source.SHARED:
        assert {f"etcpipe/{folder}/{name}" for folder in ("bpf", "native")} & names
    for path in (ROOT / "etcpipe/web").glob("page/*"):
        assert path.relative_to(ROOT).as_posix() in names
    assert "etcpipe/web/grafana.json" in names
    assert {"etcpipe/models/default.onnx", "etcpipe/schema/verdict.schema.json"} <= names


@pytest.mark.slow
def test_nothing_generic_lands_beside_it(names):
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"etcpipe"}
