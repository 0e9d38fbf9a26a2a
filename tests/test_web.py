"""The page: what it serves, to whom, and that a browser draws it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from copy import deepcopy
from http.client import HTTPResponse
from pathlib import Path

import pytest
from command import ETCPIPE, ROOT, fails
from reports import report
from waiting import until

from etcpipe.errors import OutputError, UsageError
from etcpipe.web import history, server

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")
prometheus = pytest.importorskip("etcpipe.outputs.prometheus")

TOKEN = "a-token-of-enough-characters"


@pytest.fixture
def taps(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder of reports, renewed all the time as a running attach does it."""
    monkeypatch.setattr("etcpipe.kernel.journal.RUN", tmp_path)
    monkeypatch.setattr("etcpipe.web.app.EVERY_S", 0.05)
    folder = tmp_path / "4026531840"
    folder.mkdir()
    stopping = threading.Event()
    thread = threading.Thread(target=_publish, args=(folder, stopping))
    thread.start()
    try:
        yield folder
    finally:
        stopping.set()
        thread.join()


def _publish(folder: Path, stopping: threading.Event) -> None:
    n = 0
    while not stopping.wait(0.05):
        n += 1
        fresh = deepcopy(report(time=time.time(), loader="libbpf"))
        fresh["verdicts"] = {"web": 5 * n, "ssh": n, "<script>alert(1)</script>": n}
        fresh["counters"]["PACKETS_SEEN"] = 1000 * n
        draft = folder / "eth0.new"
        draft.write_text(json.dumps(fresh))
        draft.replace(folder / "eth0.live")


@contextmanager
def serving(token: str | None = None, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve as `etcpipe web` does; yields the address."""
    from etcpipe.web.app import LOOPBACK, application

    listening = server.listen(host, 0)
    app = application(LOOPBACK, token)
    config = uvicorn.Config(app, ws="none", log_level="warning", access_log=False)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{listening.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()
        listening.close()


def get(address: str, **headers: str) -> HTTPResponse:
    request = urllib.request.Request(address, headers=headers)
    return urllib.request.urlopen(request, timeout=20)


def status(address: str, method: str = "GET", **headers: str) -> int:
    request = urllib.request.Request(address, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def movements(address: str, after: float = 0) -> list[dict]:
    with get(f"{address}/api/movements?after={after}") as answer:
        return json.load(answer)


def wait_for_movements(address: str) -> list[dict]:
    until(lambda: bool(movements(address)))
    return movements(address)


def test_movements_are_those_of_the_reports_and_none_comes_twice(taps):
    with serving() as address:
        moved = wait_for_movements(address)
        first = moved[0]
        assert first["device"] == "eth0"
        assert first["counters"]["PACKETS_SEEN"] % 1000 == 0
        assert first["consumer"]["verdicts"]["web"] == 5 * first["consumer"]["verdicts"]["ssh"] > 0
        later = movements(address, after=moved[-1]["time"])
        assert all(one["time"] > moved[-1]["time"] for one in later)


def test_metrics_of_all_taps(taps):
    with serving() as address:
        wait_for_movements(address)
        with get(f"{address}/metrics") as answer:
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert 'etcpipe_packets_total{dev="eth0"}' in answer.read().decode()


def test_page_needs_nothing_from_elsewhere(taps):
    with serving() as address, get(address) as answer:
        page = answer.read().decode()
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        for name in re.findall(r'(?:src|href)="([^"]+)"', page):
            assert status(f"{address}/{name}") == 200
    for file in (ROOT / "etcpipe/web/page").iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, file


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/api/movements", "/metrics"])
def test_nothing_can_be_changed(taps, method, path):
    with serving() as address:
        assert status(address + path, method=method) == 405


def test_data_needs_the_token_where_there_is_one(taps):
    with serving(TOKEN) as address:
        for path in ("/api/movements", "/metrics"):
            assert status(address + path) == 401
            assert status(address + path, Authorization="Bearer wrong") == 401
            assert status(address + path, Authorization=f"Bearer {TOKEN}") == 200
        assert status(address) == 200  # the page asks for it


def test_other_names_for_loopback_are_refused(taps):
    with serving() as address:
        assert status(f"{address}/api/movements", Host="evil.example") == 400
        assert status(f"{address}/api/movements", Host="localhost:1") == 200


def test_ipv6_loopback(taps):
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback address")
    with serving(host="::1") as address:
        assert status(f"{address}/api/movements") == 200


def test_files_beside_the_page_are_not_served(taps):
    with serving() as address:
        assert status(f"{address}/../app.py") == 404
        assert status(f"{address}/%2e%2e/app.py") == 404


def test_a_time_that_is_none_is_refused(taps):
    with serving() as address:
        assert status(f"{address}/api/movements?after=now") == 400


def test_tap_that_ended_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr("etcpipe.kernel.journal.RUN", tmp_path)
    folder = tmp_path / "4026531840"
    folder.mkdir()
    kept = history.History()
    for seconds in (-2, -1):
        (folder / "eth0.live").write_text(json.dumps(report(time=time.time() + seconds)))
        kept.sample()
    assert len(kept.since(0)) == 1
    (folder / "eth0.live").unlink()
    kept.sample()
    assert kept.since(0) == []


def test_history_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("etcpipe.kernel.journal.RUN", tmp_path)
    folder = tmp_path / "4026531840"
    folder.mkdir()
    kept = history.History()
    for i in range(history.KEPT + 20):
        (folder / "eth0.live").write_text(json.dumps(report(time=time.time() + i / 1000)))
        kept.sample()
    assert len(kept.since(0)) == history.KEPT


def test_token_is_made_only_where_others_can_ask(tmp_path):
    assert server.read_token(None, "127.0.0.1") is None
    assert server.read_token(None, "::1") is None
    first, second = (server.read_token(None, "0.0.0.0") for _ in range(2))
    assert first and second and first != second and len(first) >= 32


def test_token_file_is_for_few_eyes_and_no_short_word(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o640)
    assert server.read_token(str(file), "127.0.0.1") == TOKEN
    file.chmod(0o644)
    with pytest.raises(UsageError, match="others may read the token: chmod o="):
        server.read_token(str(file), "127.0.0.1")
    file.chmod(0o600)
    file.write_text("short")
    with pytest.raises(UsageError, match="16 characters or more"):
        server.read_token(str(file), "0.0.0.0")


def test_port_that_is_taken_is_one_line():
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match="Address already in use"):
            server.listen("127.0.0.1", port)
        assert fails("web", "--port", str(port), status=1) == (
            f"127.0.0.1 port {port}: Address already in use"
        )


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_command_serves_until_it_is_interrupted(ending):
    with subprocess.Popen(
        [*ETCPIPE, "web", "--port", "0"], stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        line = process.stderr.readline()
        address = re.match(r"(http://127\.0\.0\.1:\d+)/  Ctrl-C ends$", line).group(1)
        assert status(f"{address}/api/movements") == 200
        process.send_signal(ending)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")


@pytest.mark.slow
def test_a_browser_draws_it(taps, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        pytest.skip("no Chromium here")
    with serving() as address:
        wait_for_movements(address)
        drawn = dom(browser, address, tmp_path)
    assert '<path class="area c0"' in drawn
    assert "<td>web</td>" in drawn
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in drawn  # a class' name is text, whatever it is
    assert "<td>192.0.2.1</td>" in drawn
    assert "No space left on device" in drawn


@pytest.mark.slow
def test_a_browser_shows_the_token_in_the_address(taps, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        pytest.skip("no Chromium here")
    with serving(TOKEN) as address:
        assert '<form id="login">' in dom(browser, address, tmp_path)
        assert "<td>web</td>" in dom(browser, f"{address}/#token={TOKEN}", tmp_path)


def dom(browser: str, address: str, folder: Path) -> str:
    """Return the page as it is after some seconds of its own clock."""
    options = ["--headless", "--disable-gpu", f"--user-data-dir={folder}/browser"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    done = subprocess.run(
        [browser, *options, "--virtual-time-budget=4000", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout
