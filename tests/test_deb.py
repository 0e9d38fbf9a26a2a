"""The Debian packages, as far as their source tells; `make test-deb` installs them."""

import re
import shutil
import subprocess

import pytest
from command import ROOT, run

from etcpipe import __version__

DEBIAN = ROOT / "debian"


def test_the_version_is_the_programs():
    first = (DEBIAN / "changelog").read_text().splitlines()[0]
    assert first.startswith(f"etcpipe ({__version__}) ")


def test_what_python_needs_is_in_debians_packages():
    project = (ROOT / "pyproject.toml").read_text()
    (line,) = re.findall(r"(?m)^dependencies = \[(.*)\]$", project)
    depends, recommends = (
        re.search(rf"(?s)Package: etcpipe\n.*?\n{field}:\n(.*?)\n\S", _control())[1]
        for field in ("Depends", "Recommends")
    )
    for name in re.findall(r'"([\w-]+)', line):
        place = recommends if name == "onnxruntime" else depends  # Debian 12 has none
        assert f"python3-{name}" in place


def _control() -> str:
    return (DEBIAN / "control").read_text()


def test_what_is_downloaded_is_pinned_by_digest():
    lists = sorted((DEBIAN / "runtime").glob("*.txt"))
    assert [path.stem for path in lists] == ["cpu", "gpu"]
    for path in lists:
        lines = path.read_text().replace("\\\n", " ").splitlines()
        wanted = [line for line in lines if line and line[0] != "#"]
        assert wanted
        for line in wanted:
            assert re.match(r"[\w-]+==[\w.]+( +--hash=sha256:[0-9a-f]{64})+$", line)


def test_the_settings_that_ship_are_right_also_without_their_comment_signs(tmp_path, monkeypatch):
    monkeypatch.setenv("ETCPIPE_CONFIG", str(tmp_path))
    shipped = (DEBIAN / "etcpipe.toml").read_text()
    for text in (shipped, re.sub(r"(?m)^#(?=\w+ = |\[)", "", shipped)):
        (tmp_path / "etcpipe.toml").write_text(text)
        run("config", "check", check=0)
    assert run("config", "show", check=0).stdout.count(" = ") == 5


@pytest.mark.parametrize(
    "script", ["etcpipe-install-runtime", "etcpipe.postrm", "etcpipe.prerm", "tests/command"]
)
def test_shells_take_the_scripts(script):
    done = subprocess.run(["sh", "-n", str(DEBIAN / script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("logrotate"), reason="no logrotate")
def test_logrotate_takes_its_settings(tmp_path):
    (tmp_path / "eth0.jsonl").write_text("{}\n")
    text = (DEBIAN / "etcpipe.logrotate").read_text().replace("/var/log/etcpipe", str(tmp_path))
    (tmp_path / "conf").write_text(text)
    state = ["--state", str(tmp_path / "state"), "--force"]
    subprocess.run(["logrotate", *state, str(tmp_path / "conf")], check=True, capture_output=True)
    assert (tmp_path / "eth0.jsonl.1").read_text() == "{}\n"
