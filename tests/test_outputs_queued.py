"""Outputs that fail, hang and come back: the pipeline never waits, and everything is counted."""

import errno
import threading
from collections.abc import Callable, Iterator

import pytest
from waiting import until, waits_of

from etcpipe.errors import OutputError
from etcpipe.outputs import queued
from etcpipe.outputs.queued import Queued, reason_of


class Recorder:
    """A transport that remembers, and fails or hangs as it is told."""

    def __init__(self):
        self.on_drop: Callable[[int, str], None] = lambda n, reason: None
        self.taken: list[list[int]] = []
        self.fails_with: Exception | None = None
        self.calls: list[str] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.tries = 0

    def write(self, events: list[int]) -> None:
        self.may_go_on.wait()
        self.tries += 1
        if self.fails_with:
            raise self.fails_with
        self.taken.append(events)

    def tick(self) -> None:
        self.calls.append("tick")

    def reopen(self) -> None:
        self.calls.append("reopen")

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def recorder(monkeypatch) -> Iterator[Recorder]:
    for name in ("RETRY_S", "TICK_S"):
        monkeypatch.setattr(queued, name, 0.01)
    recorder = Recorder()
    yield recorder
    recorder.may_go_on.set()


def test_events_come_in_order_and_all_by_the_end(recorder):
    with Queued("q", recorder) as output:
        for i in range(100):
            output.write([i])
    assert recorder.taken == [[i] for i in range(100)]
    assert output.state() == {
        "output": "q",
        "written": 100,
        "waiting": 0,
        "dropped": {},
        "error": None,
    }
    assert recorder.calls[-1] == "close"


def test_target_that_hangs_keeps_nobody_waiting_and_the_rest_is_counted(recorder):
    recorder.may_go_on.clear()
    with Queued("q", recorder, events_max=10) as output:
        assert waits_of(lambda: [output.write([i]) for i in range(1000)]) < 10
        assert output.state()["dropped"] == {"queue_full": 990}
        assert output.state()["waiting"] == 10
        recorder.may_go_on.set()
    assert recorder.taken == [[i] for i in range(10)]
    assert output.dropped == 990


def test_failure_is_one_line_then_one_more_and_nothing_is_lost(recorder, caplog):
    recorder.fails_with = OSError(errno.ENOSPC, "No space left on device")
    with Queued("flows.jsonl", recorder) as output:
        output.write([1])
        output.write([2, 3])
        until(lambda: recorder.tries > 3)
        assert output.state()["error"] == "No space left on device"
        assert output.state()["waiting"] == 3
        recorder.fails_with = None
        until(lambda: output.state()["written"] == 3)
        assert output.state()["error"] is None
    assert recorder.taken == [[1], [2, 3]]
    assert [record.getMessage() for record in caplog.records] == [
        "flows.jsonl: No space left on device; trying again, verdicts wait or are dropped",
        "flows.jsonl: works again; 0 events dropped so far",
    ]


def test_what_does_not_fit_while_it_fails_is_counted_under_the_reason(recorder):
    recorder.fails_with = OSError(errno.ECONNREFUSED, "Connection refused")
    with Queued("q", recorder, events_max=2) as output:
        output.write([1, 2])
        until(lambda: recorder.tries > 0)
        output.write([3, 4, 5])
        assert output.state()["dropped"] == {"econnrefused": 3}
        recorder.fails_with = None
    assert recorder.taken == [[1, 2]]


def test_what_cannot_be_written_by_the_end_is_counted(recorder, monkeypatch):
    monkeypatch.setattr(queued, "DRAIN_S", 0.05)
    recorder.fails_with = OutputError("the broker is gone")
    with Queued("q", recorder) as output:
        output.write([1, 2])
        output.write([3])
    assert output.state()["dropped"] == {"failed": 3}
    assert output.state()["waiting"] == 0


def test_the_end_is_no_reason_to_try_without_a_pause(recorder, monkeypatch):
    monkeypatch.setattr(queued, "RETRY_S", 60.0)
    monkeypatch.setattr(queued, "DRAIN_S", 0.2)
    recorder.fails_with = OSError(errno.ENOSPC, "No space left on device")
    with Queued("q", recorder) as output:
        output.write([1])
        until(lambda: recorder.tries > 0)
    assert 2 <= recorder.tries < 6  # once before the end, as it comes, and as it is over
    assert output.state()["dropped"] == {"enospc": 1}


def test_a_batch_larger_than_the_queue_is_taken_when_nothing_waits(recorder):
    with Queued("q", recorder, events_max=2) as output:
        output.write([1, 2, 3])
    assert recorder.taken == [[1, 2, 3]]


def test_no_events_are_no_event(recorder):
    with Queued("q", recorder) as output:
        output.write([])
    assert recorder.taken == []


def test_at_the_end_there_is_time_to_make_room(recorder):
    with Queued("q", recorder, events_max=1) as output:
        output.patient = True
        for i in range(50):
            output.write([i])
    assert recorder.taken == [[i] for i in range(50)]
    assert output.dropped == 0


def test_time_passes_without_events_and_reopening_comes_before_the_next_ones(recorder):
    with Queued("q", recorder) as output:
        until(lambda: recorder.calls.count("tick") >= 2)
        output.reopen()
        until(lambda: "reopen" in recorder.calls)
        output.write([1])
    assert recorder.taken == [[1]]


def test_what_is_lost_after_it_was_taken_is_counted(recorder):
    with Queued("q", recorder) as output:
        recorder.on_drop(7, "timed_out")
    assert output.state()["dropped"] == {"timed_out": 7}


def test_reason_is_the_name_of_the_error_below():
    error = OutputError("cannot write")
    error.__cause__ = OSError(errno.EACCES, "Permission denied")
    assert reason_of(error) == "eacces"
    assert reason_of(OutputError("said no")) == "failed"
