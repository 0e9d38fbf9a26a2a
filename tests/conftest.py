"""Skip what this machine cannot run; say why in one place."""

import os
import signal

import pytest
from engine_fixtures import cuda, gpu  # noqa: F401  fixtures of several files
from kernel_fixtures import wire  # noqa: F401
from stale import remove_stale
from wires import bed  # noqa: F401


def _gpu_reason() -> str | None:
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        return f"no CUDA device: {error}"
    return None


def pytest_sessionstart(session: pytest.Session) -> None:
    # a shell that runs the tests in the background has Ctrl-C ignored for all of them
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("INVOCATION_ID", None)  # of a unit that runs the tests
    is_worker = hasattr(session.config, "workerinput")
    if os.geteuid() == 0 and not is_worker:
        remove_stale()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {
        "root": None if os.geteuid() == 0 else "needs root",
        "gpu": _gpu_reason(),
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
