"""A cache of TensorRT plans: a file is used only if it is complete and unchanged.

A file's name is a digest of everything that the plan depends on, so another model, version, GPU,
driver or profile is another file. A file begins with the SHA-256 of the rest. A plan is code that
runs on the GPU, so the folder must belong to the user, and nobody else may write to it.
"""

import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etcpipe.gpu.cache_folder import cache_folder

log = logging.getLogger(__name__)

# Plans take megabytes, and those of earlier drivers and versions are never used again.
KEPT = 16
_SUFFIX = ".plan"
_DIGEST_LEN = hashlib.sha256().digest_size


def default_folder() -> Path:
    """Return the folder of plans."""
    return cache_folder("plans")


def key(model: bytes, **circumstances: str | int | Mapping[str, Any]) -> str:
    """Return the name of a model's plan; circumstances: all else that it depends on."""
    digest = hashlib.sha256(model)
    digest.update(json.dumps(circumstances, sort_keys=True).encode())
    return digest.hexdigest()[:32]


class PlanCache:
    """Plans by key(). A folder that cannot be used costs time but raises no error."""

    def __init__(self, folder: Path | None = None) -> None:
        """Use a folder, by default default_folder(); it is created with the first plan."""
        self.folder = default_folder() if folder is None else folder

    def load(self, name: str) -> bytes | None:
        """Return the plan, or None if there is no trustworthy one."""
        file = self._file(name)
        try:
            if not self._is_ours():
                return None
            contents = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.info("plan %s cannot be read: %s", file, error.strerror)
            return None
        digest, plan = contents[:_DIGEST_LEN], contents[_DIGEST_LEN:]
        if hashlib.sha256(plan).digest() != digest:
            log.warning("plan %s is damaged: it is built again", file)
            self.discard(name)
            return None
        return plan

    def store(self, name: str, plan: bytes) -> None:
        """Store a plan atomically."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_ours():
                return
            with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
                try:
                    file.write(hashlib.sha256(plan).digest() + plan)
                    file.close()
                    os.replace(file.name, self._file(name))
                except BaseException:
                    os.unlink(file.name)
                    raise
            self._forget_oldest()
        except OSError as error:
            log.info("plan not kept in %s: %s", self.folder, error.strerror)

    def discard(self, name: str) -> None:
        """Delete a plan."""
        try:
            self._file(name).unlink(missing_ok=True)
        except OSError as error:
            log.info("plan %s stays: %s", self._file(name), error.strerror)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"

    def _is_ours(self) -> bool:
        found = self.folder.stat()
        others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if found.st_uid == os.geteuid() and not others_write:
            return True
        log.warning("plans in %s are not used: others may write there", self.folder)
        return False

    def _forget_oldest(self) -> None:
        newest_first = sorted(
            self.folder.glob(f"*{_SUFFIX}"), key=lambda file: file.stat().st_mtime, reverse=True
        )
        for file in newest_first[KEPT:]:
            file.unlink(missing_ok=True)
