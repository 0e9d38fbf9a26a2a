"""A dataset as a folder: one .npy file a view, written in a stream, mapped when it is read.

    manifest.json   what the rows are: settings, views and their schema hashes, mask, classes,
                    captures with SHA-256, captures left out, SHA-256 of every other file
    VIEW.npy        (flows, ...) rows
    flows.npy       (flows,) FLOW: label, capture, host, first_us, payload

A folder is written beside its place and moved there once it is whole. Rows are in files that
NumPy maps, so neither building nor opening needs the memory that all rows would take.
"""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, BinaryIO

import numpy as np

from etcpipe import __version__
from etcpipe.dataset.reading import Chunk, OnProgress, read_chunks, views_wanted
from etcpipe.dataset.recordings import Recording
from etcpipe.dataset.rows import Dataset, Input, file_digest
from etcpipe.errors import CaptureError, OutputError, UsageError
from etcpipe.gpu.views import VIEWS, schema_hash

FORMAT = 1
MANIFEST, FLOWS = "manifest.json", "flows.npy"
FLOW = np.dtype(
    [
        ("label", "<i4"),
        ("capture", "<i4"),
        ("host", "<i8"),
        ("first_us", "<i8"),
        ("payload", "u1"),
    ]
)
# A .npy header of version 1.0 has room for every shape here.
_HEADER_BYTES = 128


@dataclass(frozen=True)
class Manifest:
    """What the rows of a folder are.

    Attributes:
        input: how packets became rows.
        mask: of the bytes in views.
        views: their names.
        classes, captures: as in Dataset.
        digests: SHA-256 of the captures, in their order.
        skipped: captures that could not be read, and why.
    """

    input: Input
    mask: str
    views: tuple[str, ...]
    classes: tuple[str, ...]
    captures: tuple[str, ...]
    digests: tuple[str, ...]
    skipped: dict[str, str]
    flows: int
    unlabelled: int


def is_folder(path: Path) -> bool:
    """Return whether a path is a built dataset."""
    return (path / MANIFEST).is_file()


def build(
    recordings: Sequence[Recording],
    folder: Path,
    settings: Input,
    views: Sequence[str] = (),
    mask: str = "strict",
    on_progress: OnProgress = lambda done, total: None,
) -> Manifest:
    """Write the labelled flows of captures into a new folder.

    Captures that cannot be read are left out and named in the manifest; flows that came
    before the fault stay.

    Raises:
        UsageError: the folder is there already, or no flow has a label.
        OutputError: it cannot be written.
    """
    if folder.exists():
        raise UsageError(f"{folder} is there already: give a new folder")
    part = folder.with_name(f".{folder.name}.part")
    try:
        rmtree(part, ignore_errors=True)
        part.mkdir()
        skipped: dict[str, str] = {}

        def skip(recording: Recording, error: CaptureError) -> None:
            skipped[str(recording.path)] = str(error)

        wanted = views_wanted(views)
        with ExitStack() as files:
            writer = _Writer(part, wanted, files)
            for chunk in read_chunks(recordings, settings, wanted, mask, on_progress, skip):
                writer.add(chunk)
        if not writer.names:
            raise UsageError("no flow of these captures has a label")
        contents = writer.describe(recordings, settings, mask) | {"skipped": skipped}
        (part / MANIFEST).write_text(json.dumps(contents, indent=1) + "\n")
        os.rename(part, folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    finally:
        rmtree(part, ignore_errors=True)
    return read_manifest(folder)


def read_manifest(folder: Path) -> Manifest:
    """Return what a folder holds.

    Raises:
        UsageError: it is no dataset, damaged, or its views have another meaning today.
    """
    try:
        found = json.loads((folder / MANIFEST).read_text())
        if found["format"] != FORMAT:
            raise UsageError(f"{folder} is of format {found['format']}: build it again")
        settings = Input(**found["input"])
        for name, view in found["views"].items():
            if view["schema_hash"] != _schema(name, settings, found["mask"]):
                raise UsageError(f"{folder}: view {name} means something else now: build it again")
        return Manifest(
            settings,
            found["mask"],
            tuple(found["views"]),
            tuple(found["classes"]),
            tuple(one["path"] for one in found["captures"]),
            tuple(one["sha256"] for one in found["captures"]),
            found["skipped"],
            found["flows"],
            found["unlabelled"],
        )
    except OSError as error:
        raise UsageError(f"cannot read {folder}/{MANIFEST}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{folder}/{MANIFEST} is damaged: build it again") from error


def open_folder(folder: Path) -> Dataset:
    """Return the rows of a folder, mapped from its files.

    Raises:
        UsageError: it is no dataset, or a file of it is missing or cut.
    """
    manifest = read_manifest(folder)
    flows = np.asarray(_map(folder / FLOWS, manifest.flows))
    rows = {name: _map(folder / f"{name}.npy", manifest.flows) for name in manifest.views}
    return Dataset(
        stats=rows.pop("stats"),
        seq=rows.pop("seq"),
        label=np.ascontiguousarray(flows["label"]),
        capture=np.ascontiguousarray(flows["capture"]),
        classes=manifest.classes,
        captures=manifest.captures,
        unlabelled=manifest.unlabelled,
        views=rows,
        mask=manifest.mask,
        host=np.ascontiguousarray(flows["host"]),
        first_us=np.ascontiguousarray(flows["first_us"]),
        payload=np.ascontiguousarray(flows["payload"]),
        digests=manifest.digests,
    )


def verify(folder: Path) -> None:
    """Check every file of a folder against its SHA-256.

    Raises:
        UsageError: one is not what was written.
    """
    read_manifest(folder)
    for name, expected in json.loads((folder / MANIFEST).read_text())["files"].items():
        if not (folder / name).is_file() or file_digest(folder / name) != expected:
            raise UsageError(f"{folder / name} is not what was written: build the dataset again")


class _Writer:
    """Appends chunks to the files of a folder."""

    def __init__(self, folder: Path, views: tuple[str, ...], files: ExitStack) -> None:
        self._views = views
        self.names: dict[str, int] = {}
        self._folder = folder
        self._files = {name: _ArrayFile(folder / f"{name}.npy") for name in views}
        for file in self._files.values():
            files.callback(file.close)
        self._flows: list[np.ndarray] = []
        self._unlabelled = 0

    def add(self, chunk: Chunk) -> None:
        for name, rows in chunk.rows.items():
            self._files[name].append(rows)
        flows = np.zeros(len(chunk.labels), FLOW)
        flows["label"] = [self.names.setdefault(name, len(self.names)) for name in chunk.labels]
        flows["capture"] = chunk.recording
        for column in ("host", "first_us", "payload"):
            flows[column] = getattr(chunk, column)
        self._flows.append(flows)
        self._unlabelled += chunk.unlabelled

    def describe(
        self, recordings: Sequence[Recording], settings: Input, mask: str
    ) -> dict[str, Any]:
        """Write what is known of each flow; return what the manifest says of all files."""
        flows = np.concatenate(self._flows)
        classes = sorted(self.names)
        flows["label"] = np.argsort([self.names[name] for name in classes])[flows["label"]]
        used, flows["capture"] = np.unique(flows["capture"], return_inverse=True)
        flows["host"] = np.unique(flows["host"], return_inverse=True)[1]
        np.save(self._folder / FLOWS, flows)
        sizes = np.bincount(flows["capture"])
        return {
            "format": FORMAT,
            "etcpipe": __version__,
            "input": vars(settings),
            "mask": mask,
            "group": "capture",
            "flows": len(flows),
            "unlabelled": self._unlabelled,
            "classes": classes,
            "views": {name: {"schema_hash": _schema(name, settings, mask)} for name in self._views},
            "captures": [
                {
                    "path": str(recordings[i].path),
                    "sha256": file_digest(recordings[i].path),
                    "flows": int(size),
                }
                for i, size in zip(used, sizes, strict=True)
            ],
            "files": {one.name: file_digest(one) for one in sorted(self._folder.glob("*.npy"))},
        }


class _ArrayFile:
    """A .npy file that grows; its header is written when the number of rows is known.

    Source: NumPy's numpy.lib.format, version 1.0 of the format.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._file.write(bytes(_HEADER_BYTES))
        self._rows = 0
        self._row: tuple[np.dtype, tuple[int, ...]] | None = None

    def append(self, rows: np.ndarray) -> None:
        self._row = rows.dtype, rows.shape[1:]
        self._rows += len(rows)
        self._file.write(np.ascontiguousarray(rows).data)

    def close(self) -> None:
        if self._row is not None:
            dtype, shape = self._row
            fields = {"descr": dtype.str, "fortran_order": False, "shape": (self._rows, *shape)}
            header = repr(fields).ljust(_HEADER_BYTES - 11) + "\n"
            self._file.seek(0)
            self._file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little"))
            self._file.write(header.encode("latin-1"))
        self._file.close()


def _schema(view: str, settings: Input, mask: str) -> str:
    declared = VIEWS[view]
    return schema_hash(declared, settings.first_n, mask, declared.column_names("none"))


def _map(path: Path, flows: int) -> np.ndarray:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path} is missing or damaged: build the dataset again") from error
    if len(rows) != flows:
        raise UsageError(f"{path} has {len(rows)} rows instead of {flows}: build the dataset again")
    return rows
