"""The state of unfinished fits on disk, so that an interrupted training can be resumed."""

import os
import time
from pathlib import Path
from typing import Any

import torch

from etcpipe.errors import OutputError

EVERY_S = 60.0


class Checkpoint:
    """The file of one fit: written at most every EVERY_S seconds, and at the end.

    A file of another training (other data, settings or PyTorch) is not used: its identity
    differs.
    """

    def __init__(self, folder: Path | None, key: str, identity: str) -> None:
        self._path = folder / f"{key}.pt" if folder else None
        self._identity = f"{identity} torch {torch.__version__}"
        self._written = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the state that was saved last; None if there is none for this fit."""
        if self._path is None or not self._path.exists():
            return None
        try:
            saved = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception:  # truncated or damaged, in whatever way: begin again
            return None
        is_ours = isinstance(saved, dict) and saved.get("identity") == self._identity
        return saved["state"] if is_ours else None

    def is_due(self) -> bool:
        """Return whether it is time to save again."""
        return self._path is not None and time.monotonic() - self._written >= EVERY_S

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state atomically.

        Raises:
            OutputError: the folder cannot be written.
        """
        if self._path is None:
            return
        part = self._path.with_suffix(".part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"identity": self._identity, "state": state}, part)
            os.replace(part, self._path)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from error
        self._written = time.monotonic()
