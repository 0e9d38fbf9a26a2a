"""Engines under /opt/etcpipe, and what is said where they are missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from etcpipe import runtime
from etcpipe.doctor import machine

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


INSTALLER = Path(__file__).parents[1] / "debian" / "etcpipe-install-runtime"


def test_the_installer_knows_its_words():
    done = subprocess.run([INSTALLER, "tpu"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "etcpipe-install-runtime: cpu or gpu, not tpu\n",
    )
    shown = subprocess.run([INSTALLER, "--help"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("Puts what Debian does not package under /opt/etcpipe")
