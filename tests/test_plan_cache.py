"""Plans on disk: whole and unchanged or not at all, and only where nobody else may write."""

import os
import subprocess
import sys

import pytest

from etcpipe.gpu import plan_cache
from etcpipe.gpu.plan_cache import KEPT, PlanCache

SAME = {"version": "11.4", "gpu": "NVIDIA L4, 8.9", "driver": "13.0", "options": {"max": 256}}


@pytest.fixture
def cache(tmp_path):
    return PlanCache(tmp_path / "cache" / "plans")


def test_what_was_stored_comes_back(cache):
    cache.store("a", b"plan a")
    cache.store("b", b"")
    assert (cache.load("a"), cache.load("b"), cache.load("c")) == (b"plan a", b"", None)


def test_a_second_plan_of_the_same_name_replaces_the_first(cache):
    cache.store("a", b"old")
    cache.store("a", b"new")
    assert cache.load("a") == b"new"
    assert [file.name for file in cache.folder.iterdir()] == ["a.plan"]


@pytest.mark.parametrize(
    "change",
    [
        lambda contents: contents[:-1],
        lambda contents: contents + b"x",
        lambda contents: contents[:40] + b"X" + contents[41:],
        lambda contents: b"X" + contents[1:],
        lambda contents: contents[:20],
        lambda contents: b"",
    ],
    ids=["cut", "longer", "plan changed", "digest changed", "half a digest", "empty"],
)
def test_a_damaged_plan_is_not_there_any_more(cache, change, caplog):
    cache.store("a", b"p" * 100)
    file = cache.folder / "a.plan"
    file.write_bytes(change(file.read_bytes()))
    assert cache.load("a") is None
    assert "damaged" in caplog.text and not file.exists()


@pytest.mark.parametrize(
    "other",
    [{"version": "11.5"}, {"gpu": "NVIDIA L40, 8.9"}, {"driver": "13.1"}, {"options": {"max": 9}}],
)
def test_another_circumstance_is_another_plan(other):
    assert plan_cache.key(b"model", **SAME) != plan_cache.key(b"model", **{**SAME, **other})


def test_another_model_is_another_plan():
    assert plan_cache.key(b"model", **SAME) != plan_cache.key(b"Model", **SAME)
    assert plan_cache.key(b"model", **SAME) == plan_cache.key(b"model", **SAME)


def test_the_oldest_plans_go(cache):
    for age in range(KEPT):
        cache.store(str(age), b"plan")
        os.utime(cache.folder / f"{age}.plan", (age, age))
    assert cache.load("0") is not None
    cache.store("new", b"plan")
    assert cache.load("0") is None and cache.load("1") is not None
    assert len(list(cache.folder.iterdir())) == KEPT


def test_a_folder_where_others_write_is_not_trusted(cache, caplog):
    cache.store("a", b"plan")
    cache.folder.chmod(0o777)
    assert cache.load("a") is None
    assert "others may write" in caplog.text
    cache.store("b", b"plan")
    assert not (cache.folder / "b.plan").exists()


def test_a_new_folder_is_for_its_owner_only(cache):
    cache.store("a", b"plan")
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_a_place_that_is_no_folder_costs_no_more_than_the_plan(tmp_path):
    (tmp_path / "file").write_text("")
    cache = PlanCache(tmp_path / "file" / "plans")
    cache.store("a", b"plan")
    assert cache.load("a") is None
    cache.discard("a")


def test_a_failed_write_leaves_nothing(cache, monkeypatch):
    cache.store("a", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.store("a", b"new")
    assert [file.name for file in cache.folder.iterdir()] == ["a.plan"]
    assert cache.load("a") == b"old"


def test_readers_beside_a_writer_see_whole_plans(cache):
    """A process stores two plans in turns; what is read meanwhile is one of them."""
    plans = [b"a" * 300_000, b"b" * 500_000]
    cache.store("x", plans[0])
    code = (
        "import sys; from pathlib import Path; from etcpipe.gpu.plan_cache import PlanCache\n"
        "cache = PlanCache(Path(sys.argv[1]))\n"
        "for turn in range(60): cache.store('x', [b'a' * 300_000, b'b' * 500_000][turn % 2])\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(cache.folder)])
    reads = 0
    while writer.poll() is None or not reads:
        assert cache.load("x") in plans
        reads += 1
    assert writer.returncode == 0


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert plan_cache.default_folder() == tmp_path / "etcpipe" / "plans"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(plan_cache.default_folder()) == "/home/somebody/.cache/etcpipe/plans"
