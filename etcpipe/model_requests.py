"""Another model for a running attach: who wants one asks by a file beside the tap's journal.

The command writes DEVICE.ask; the running process finds it when it looks after its device,
loads the model in a thread of its own, puts it in service between two batches of packets, and
writes DEVICE.answer. It never waits for anybody, and nothing listens anywhere.
"""

import json
import logging
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etcpipe import model as models
from etcpipe.errors import DataplaneError, EtcpipeError, UsageError
from etcpipe.kernel import checks, journal, netns
from etcpipe.kernel.journal import Lock

if TYPE_CHECKING:
    from etcpipe.live import Live

log = logging.getLogger(__name__)

ACTIONS = ("load", "shadow", "rollback")
# The running process looks twice a second; a model for a GPU may take minutes to build.
NOTICED_S, DONE_S = 10.0, 600.0
POLL_S = 0.02


class ModelRequests:
    """The running process's end; call check() between batches, see Live.at_checks()."""

    def __init__(self, tap: "Live", namespace: str | None) -> None:
        self._tap = tap
        self._ask, self._answer = _paths(tap.device, namespace)
        self._request: dict[str, Any] | None = None
        self._loaded: models.Model | EtcpipeError | None = None
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Take a request, or put in service what was loaded meanwhile."""
        if self._request is None:
            self._request = _read(self._ask)
            if self._request is None:
                return
            self._ask.unlink(missing_ok=True)
            self._thread = threading.Thread(target=self._load, daemon=True)
            self._thread.start()
        elif self._thread and not self._thread.is_alive():
            answer = {"id": self._request.get("id"), **self._act()}
            with suppress(OSError):  # then nobody hears it, and all goes on
                _write(self._answer, answer)
            self._request = self._loaded = self._thread = None

    def _load(self) -> None:
        assert self._request
        try:
            if self._request.get("action") in ("load", "shadow"):
                self._loaded = models.load(self._request.get("model"), device=self._tap.compute)
        except EtcpipeError as error:
            self._loaded = error

    def _act(self) -> dict[str, str]:
        """Do what was asked for and return what came of it."""
        assert self._request
        action, loaded = self._request.get("action"), self._loaded
        try:
            if isinstance(loaded, EtcpipeError):
                raise loaded
            if action == "rollback":
                self._tap.roll_back_model()
            elif action == "shadow" and loaded:
                self._tap.set_shadow(loaded)
            elif action == "load" and loaded:
                self._tap.set_model(loaded)
            else:
                raise UsageError(f"this etcpipe cannot {action!r}: attach anew with a newer one")
        except EtcpipeError as error:
            return {"error": str(error)}
        log.info("%s: model %s by request", self._tap.device, action)
        new = loaded or self._tap.model
        return {"model": str(new), "engine": new.engine}


def ask(device: str, namespace: str | None, action: str, model: str | None = None) -> dict:
    """Ask the attach that runs on a device, and return its answer: {model, engine}.

    Args:
        action: one of ACTIONS.
        model: an absolute path, or the name of one that ships.

    Raises:
        DataplaneError: none runs there, it does not answer, or it refused.
        UsageError: somebody else is asking.
    """
    checks.capabilities()
    inode = netns.inode(namespace)
    if Lock(inode, device).owner() is None:
        raise DataplaneError(f"{device}: no attach runs there; start one with --model")
    asked, answered = _paths(device, namespace)
    number = secrets.token_hex(8)
    answered.unlink(missing_ok=True)
    _put(asked, {"id": number, "action": action, "model": model}, device)
    began = time.monotonic()
    while True:
        answer = _read(answered)
        if answer and answer.get("id") == number:
            break
        waited = time.monotonic() - began
        if Lock(inode, device).owner() is None:
            asked.unlink(missing_ok=True)
            raise DataplaneError(f"{device}: attach ended before it answered")
        if waited > (NOTICED_S if asked.exists() else DONE_S):
            asked.unlink(missing_ok=True)
            raise DataplaneError(f"{device}: attach did not answer within {waited:.0f} s")
        time.sleep(POLL_S)
    answered.unlink(missing_ok=True)
    if "error" in answer:
        raise DataplaneError(f"{device}: {answer['error']}")
    return answer


def _paths(device: str, namespace: str | None) -> tuple[Path, Path]:
    inode = netns.inode(namespace)
    ask, answer = (journal.run_path(inode, device, suffix) for suffix in (".ask", ".answer"))
    return ask, answer


def _put(path: Path, request: dict[str, Any], device: str) -> None:
    """Write a request where there is none."""
    draft = path.with_name(f"{path.name}.{request['id']}")
    draft.write_text(json.dumps(request))
    try:
        path.hardlink_to(draft)
    except FileExistsError as error:
        raise UsageError(f"{device}: another request is being answered: try again") from error
    finally:
        draft.unlink()


def _write(path: Path, answer: dict[str, Any]) -> None:
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(json.dumps(answer))
    draft.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
