"""Another model or policy for a running attach: asked for by a file beside the tap's journal.

The command writes DEVICE.ask; the running process finds it when it looks after its device,
loads a model in a thread of its own, takes what was asked for between two batches of packets,
and writes DEVICE.answer. It never waits for anybody, and nothing listens anywhere.
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
from etcpipe.policy import rules as policies

if TYPE_CHECKING:
    from etcpipe.live.tap import Live
    from etcpipe.model_choice import AnyModel

log = logging.getLogger(__name__)

# The running process looks twice a second; a model for a GPU may take minutes to build.
NOTICED_S, DONE_S = 10.0, 600.0
POLL_S = 0.02


class Requests:
    """The running process's end; call check() between batches, see Live.at_checks()."""

    def __init__(self, tap: "Live", namespace: str | None) -> None:
        self._tap = tap
        self._ask, self._answer = _paths(tap.device, namespace)
        self._request: dict[str, Any] | None = None
        self._loaded: AnyModel | EtcpipeError | None = None  # what a request's file became
        self._first_policy = tap.policy
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
        action, file = self._request.get("action"), self._request.get("file") or ""
        try:
            if action == "load":
                self._loaded = self._tap.load_model(file)
            elif action == "shadow":
                self._loaded = models.load(file, device=self._tap.compute)
        except EtcpipeError as error:
            self._loaded = error
        except Exception as error:  # a defect, which must neither end the tap nor go unsaid
            log.exception("%s: cannot load %s", self._tap.device, file)
            self._loaded = DataplaneError(f"cannot load {file}: {error!r}")

    def _act(self) -> dict[str, str]:
        """Do what was asked for and return what came of it."""
        loaded = self._loaded
        try:
            if isinstance(loaded, EtcpipeError):
                raise loaded
            self._take(loaded)
        except EtcpipeError as error:
            return {"error": str(error)}
        new = loaded or self._tap.model
        return {"model": str(new), "engine": new.engine}

    def _take(self, loaded: "AnyModel | None") -> None:
        assert self._request
        tap, action = self._tap, self._request.get("action")
        if action == "load" and loaded:
            tap.set_model(loaded)
        elif action == "shadow" and isinstance(loaded, models.Model):
            tap.set_shadow(loaded)
        elif action == "rollback":
            tap.roll_back_model()
        elif action == "policy" and self._request.get("file"):
            tap.set_policy(policies.load(self._request["file"]))
        elif action == "policy-undo":
            tap.set_policy(self._first_policy)
        else:
            raise UsageError(
                f"this attach cannot take {action!r}: start it anew, with this version"
            )
        # whoever reads the service's journal must see who changed what answers, and when
        asked = " ".join(filter(None, (action, self._request.get("file"))))
        log.warning("%s: %s by request; %s answers", tap.device, asked, tap.model)


def is_running(device: str, namespace: str | None) -> bool:
    """Does an attach run on a device, which could be asked?"""
    return Lock(netns.inode(namespace), device).owner() is not None


def ask(device: str, namespace: str | None, action: str, file: str | None = None) -> dict:
    """Ask the attach that runs on a device, and return its answer: {model, engine}.

    Args:
        action: "load" or "shadow" a model, "rollback", take a "policy", "policy-undo".
        file: the model's or the policy's, an absolute path.

    Raises:
        DataplaneError: none runs there, it does not answer, or it refused.
        UsageError: somebody else is asking.
    """
    checks.capabilities()
    inode = netns.inode(namespace)
    if not is_running(device, namespace):
        raise DataplaneError(f"{device}: no attach runs there: start one")
    asked, answered = _paths(device, namespace)
    number = secrets.token_hex(8)
    _put(asked, {"id": number, "action": action, "file": file}, device)
    began = time.monotonic()
    while True:
        answer = _read(answered)
        if answer and answer.get("id") == number:
            break
        waited = time.monotonic() - began
        is_unnoticed = (_read(asked) or {}).get("id") == number  # else it is somebody else's
        is_over = Lock(inode, device).owner() is None
        if is_unnoticed and (is_over or waited > NOTICED_S):
            asked.unlink(missing_ok=True)
        if is_over:
            raise DataplaneError(f"{device}: attach ended before it answered")
        if waited > (NOTICED_S if is_unnoticed else DONE_S):
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
