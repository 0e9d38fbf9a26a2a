"""Labelled flows: read from captures, or from a folder that was built from them.

To get data for training:
    find_recordings(folder, task)       the captures, and how their flows are labelled
    read(recordings, Input(), views=)   -> Dataset, in memory
    build(recordings, folder, ...)      writes the same rows to a folder, for data of any size
    open_folder(folder)                 -> Dataset, with rows mapped from the folder's files

A Dataset has the same interface either way: `rows(view)`, `label`, `capture`, `groups(split)`.
"""

from etcpipe.dataset.folder import Manifest, build, is_folder, open_folder, read_manifest
from etcpipe.dataset.reading import Labelled, read, read_labelled, rows_of
from etcpipe.dataset.recordings import (
    Flow,
    Labeller,
    Recording,
    bundle_recordings,
    by_server,
    find_captures,
    find_labelled,
    find_recordings,
)
from etcpipe.dataset.rows import SPLITS, STATS, Dataset, Input

__all__ = [
    "SPLITS",
    "STATS",
    "Dataset",
    "Flow",
    "Input",
    "Labelled",
    "Labeller",
    "Manifest",
    "Recording",
    "build",
    "bundle_recordings",
    "by_server",
    "find_captures",
    "find_labelled",
    "find_recordings",
    "is_folder",
    "open_folder",
    "read",
    "read_labelled",
    "read_manifest",
    "rows_of",
]
