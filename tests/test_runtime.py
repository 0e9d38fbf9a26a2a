"""Engines under /opt/etcpipe, and what is said where they are missing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from etcpipe import runtime
from etcpipe.doctor import machine

ROOT = Path(__file__).parents[1]
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def system(monkeypatch):
    """As if this were no virtual environment."""
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)


@pytest.fixture
def opt(tmp_path, monkeypatch):
    (tmp_path / VERSION).mkdir()
    monkeypatch.setattr(
        sys, "path", ["/here", "/usr/lib/python3", "/usr/lib/python3/dist-packages"]
    )
    return tmp_path


def test_what_was_installed_comes_before_the_distribution(system, opt):
    for _ in range(2):
        runtime.use(opt)
    own = str(opt / VERSION)
    assert sys.path == ["/here", "/usr/lib/python3", own, "/usr/lib/python3/dist-packages"]


def test_another_pythons_is_left_alone(system, opt):
    (opt / VERSION).rename(opt / "python3.1")
    runtime.use(opt)
    assert len(sys.path) == 3


def test_a_virtual_environment_keeps_to_itself(opt, monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/elsewhere")
    runtime.use(opt)
    assert len(sys.path) == 3


def test_the_remedy_is_what_is_there(system, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "INSTALLER", tmp_path / "etcpipe-install-runtime")
    assert runtime.remedy() == "pip install onnxruntime"
    runtime.INSTALLER.touch()
    assert runtime.remedy() == "run etcpipe-install-runtime"
    assert runtime.remedy("cupy-cuda13x") == "run etcpipe-install-runtime gpu"


@pytest.fixture
def packaged(system, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "INSTALLER", tmp_path / "etcpipe-install-runtime")
    runtime.INSTALLER.touch()


def test_a_packages_user_is_sent_to_apt_or_to_opt(packaged):
    assert runtime.remedy_for("monitor") == "apt install python3-rich"
    target = f"pip install --target /opt/etcpipe/{VERSION}"
    assert runtime.remedy_for("parquet") == f"{target} pyarrow"
    assert runtime.remedy("onnx") == f"{target} onnx"


def test_others_are_sent_to_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "INSTALLER", tmp_path / "nothing")
    assert runtime.remedy_for("parquet") == "pip install 'etcpipe[parquet]'"


def extras():
    """Return the extras of pyproject.toml, with the names of what they need."""
    text = (ROOT / "pyproject.toml").read_text()
    lines = re.findall(r"^([a-z]+) = \[(.*)\]$", text, re.MULTILINE)
    needs = {extra: re.findall(r'"([a-z-]+)(?:\[([a-z]+)\])?', line) for extra, line in lines}
    return {
        extra: {package for package, inner in need if not inner}.union(
            *({name for name, _ in needs[inner]} for _, inner in need if inner)
        )
        for extra, need in needs.items()
    }


def test_remedies_are_what_the_extras_need():
    there = extras()
    assert {extra: set(names.split()) for extra, names in runtime.PIP.items()} == {
        extra: there[extra] for extra in runtime.PIP
    }
    for extra, packages in runtime.APT.items():
        assert {name.removeprefix("python3-") for name in packages.split()} == {
            name for name in there[extra]
        }


def test_nothing_else_tells_how_to_install():
    said = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("etcpipe", "cli", "gpu")
        for path in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "pip install" in line and path.name != "runtime.py"
    ]
    assert said == []


def test_a_missing_engine_is_one_line():
    script = (
        "import sys; sys.modules['onnxruntime'] = None; from etcpipe.cli.command import run;"
        " sys.exit(run(['model', 'show', 'traffic_moe']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 5
    assert done.stderr == "etcpipe: no ONNX Runtime here: pip install onnxruntime\n"


def test_doctor_does_without_bcc(monkeypatch):
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert machine._has_bcc() is False


INSTALLER = ROOT / "debian" / "etcpipe-install-runtime"


def test_the_installer_knows_its_words():
    done = subprocess.run([INSTALLER, "tpu"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "etcpipe-install-runtime: cpu or gpu, not tpu\n",
    )
    shown = subprocess.run([INSTALLER, "--help"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("Puts what Debian does not package under /opt/etcpipe")
