"""Requests to a running attach: several that are made at once do not disturb each other."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from waiting import until

from etcpipe.errors import DataplaneError
from etcpipe.kernel import netns
from etcpipe.kernel.journal import Lock, run_path
from etcpipe.live import requests

pytestmark = pytest.mark.root

DEVICE = "etcrequests"


def path_of(suffix: str) -> Path:
    return run_path(netns.inode(None), DEVICE, suffix)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def attached(pool: ThreadPoolExecutor) -> Iterator[None]:
    """The test plays the running attach, and so holds its lock.

    It is released before the pool is closed: that ends the requests of a test that failed.
    """
    lock = Lock(netns.inode(None), DEVICE)
    lock.acquire()
    try:
        yield
    finally:
        for suffix in (".ask", ".answer"):
            path_of(suffix).unlink(missing_ok=True)
        lock.release()


def take() -> dict:
    """Notice the request that is there, as the running attach does."""
    until(path_of(".ask").exists)
    request = json.loads(path_of(".ask").read_text())
    path_of(".ask").unlink()
    return request


def answer(request: dict) -> None:
    draft = path_of(".draft")
    draft.write_text(json.dumps({"id": request["id"], "model": request["file"], "engine": "c"}))
    draft.replace(path_of(".answer"))


def ask(pool: ThreadPoolExecutor, file: str) -> Future:
    return pool.submit(requests.ask, DEVICE, None, "load", file)


@pytest.mark.usefixtures("attached")
def test_a_request_leaves_the_answer_to_another_one(pool: ThreadPoolExecutor) -> None:
    unread = {"id": "another request", "file": "first"}
    answer(unread)
    second = ask(pool, "second")
    request = take()
    assert json.loads(path_of(".answer").read_text())["id"] == unread["id"]
    answer(request)
    assert second.result(10)["model"] == "second"


@pytest.mark.usefixtures("attached")
def test_a_request_that_waits_does_not_end_one_in_work(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "NOTICED_S", 1.0)
    first = ask(pool, "first")
    request = take()
    second = ask(pool, "second")
    with pytest.raises(DataplaneError, match="did not answer within"):
        second.result(10)
    assert not path_of(".ask").exists()
    assert not first.done()
    answer(request)
    assert first.result(10)["model"] == "first"


@pytest.mark.usefixtures("attached")
def test_a_request_in_work_leaves_the_next_one_to_be_noticed(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "DONE_S", 1.0)
    first = ask(pool, "first")
    take()
    second = ask(pool, "second")
    until(path_of(".ask").exists)
    with pytest.raises(DataplaneError, match="did not answer within"):
        first.result(10)
    monkeypatch.setattr(requests, "DONE_S", 600.0)
    answer(take())
    assert second.result(10)["model"] == "second"


class Tap:
    """A running attach that cannot load models."""

    device, policy, model = DEVICE, None, None

    def load_model(self, file: str) -> None:
        raise RuntimeError("a defect")


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"action": "load", "file": "m.onnx"}, "cannot load m.onnx: RuntimeError('a defect')"),
        ({"action": "policy"}, "this attach cannot take 'policy'"),
    ],
)
def test_a_request_that_cannot_be_met_is_answered(request_: dict, error: str) -> None:
    """Whatever is wrong with it, who asked hears it and the attach goes on."""
    path_of(".ask").write_text(json.dumps({"id": "1", **request_}))
    running = requests.Requests(Tap(), None)  # type: ignore[arg-type]
    until(lambda: running.check() or path_of(".answer").exists())
    assert error in json.loads(path_of(".answer").read_text())["error"]
