"""Files of a running attach: appended to, rotated, full, moved away."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path

import pytest
from verdicts import Flow, verdicts
from waiting import until

from etcpipe.errors import OutputError, UsageError
from etcpipe.outputs import columns_of, eve, files, format_of
from etcpipe.outputs.files import Lines, ParquetFiles, path_at
from etcpipe.outputs.targets import Targets, file_output

COLUMNS = columns_of(verdicts(Flow()))
LINE = eve.lines(COLUMNS)[0] + "\n"
NOON = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc).timestamp()


@pytest.fixture
def clock(monkeypatch) -> Iterator[Callable[[float], None]]:
    """Set the time that names of files go by."""
    now = [NOON]
    monkeypatch.setattr(files, "time", lambda: now[0])

    def put(seconds: float) -> None:
        now[0] = seconds

    yield put


def lines_of(path: Path | str) -> Lines:
    return Lines(str(path), format_of(path))


def test_pattern_is_in_utc():
    assert path_at("/x/flows-%Y%m%d%H.parquet", NOON) == Path("/x/flows-2026112212.parquet")
    assert path_at("/x/flows.jsonl", NOON) == Path("/x/flows.jsonl")


def test_lines_are_appended_to_what_is_there(tmp_path):
    path = tmp_path / "flows.jsonl"
    path.write_text("before\n")
    with Targets([str(path)]) as targets:
        targets.write(COLUMNS)
    assert path.read_text() == "before\n" + LINE


def test_header_of_csv_is_written_once(tmp_path):
    path = tmp_path / "flows.csv"
    for _ in range(2):
        with Targets([str(path)]) as targets:
            targets.write(COLUMNS)
            targets.write(COLUMNS)
    rows = path.read_text().splitlines()
    assert len(rows) == 5
    assert [row.startswith("timestamp,") for row in rows] == [True, False, False, False, False]


def test_only_the_owner_and_the_group_may_read(tmp_path):
    before = os.umask(0)
    try:
        with Targets([str(tmp_path / "flows.jsonl")]):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "flows.jsonl").stat().st_mode & 0o777 == 0o640


def test_file_that_was_moved_away_is_opened_anew(tmp_path):
    path = tmp_path / "flows.jsonl"
    lines = lines_of(path)
    lines.write(COLUMNS)
    path.rename(tmp_path / "flows.jsonl.1")
    lines.tick()
    lines.write(COLUMNS)
    lines.close()
    assert path.read_text() == (tmp_path / "flows.jsonl.1").read_text() == LINE


def test_logrotate_loses_nothing(tmp_path):
    """The very program, with a configuration as the documentation has it."""
    if not Path("/usr/sbin/logrotate").exists():
        pytest.skip("logrotate is not installed")
    path = tmp_path / "flows.jsonl"
    config = tmp_path / "logrotate.conf"
    config.write_text(f"{path} {{\n  rotate 2\n  missingok\n}}\n")
    config.chmod(0o600)
    rotate = ["/usr/sbin/logrotate", "-f", "-s", str(tmp_path / "state"), str(config)]
    lines = lines_of(path)
    for _ in range(2):
        lines.write(COLUMNS)
        subprocess.run(rotate, check=True)
        lines.tick()
    lines.write(COLUMNS)
    lines.close()
    assert [(tmp_path / f"flows.jsonl{end}").read_text() for end in ("", ".1", ".2")] == [LINE] * 3


def test_file_that_was_removed_and_signal_to_reopen(tmp_path):
    path = tmp_path / "flows.jsonl"
    with file_output(str(path)) as output:
        path.unlink()
        output.reopen()
        output.write(COLUMNS)
    assert path.read_text() == LINE


def test_lines_by_the_hour(tmp_path, clock):
    lines = lines_of(tmp_path / "flows-%H.jsonl")
    lines.write(COLUMNS)
    clock(NOON + 3600)
    lines.tick()
    lines.write(COLUMNS)
    lines.close()
    assert {path.name for path in tmp_path.iterdir()} == {"flows-12.jsonl", "flows-13.jsonl"}


def parquet_rows(path: Path) -> int:
    # of bytes: threads of Arrow keep a file open for a moment after it was read
    content = BytesIO(path.read_bytes())
    return pytest.importorskip("pyarrow.parquet").read_table(content).num_rows


def test_parquet_by_the_hour_appears_when_it_is_whole(tmp_path, clock):
    pytest.importorskip("pyarrow")
    output = ParquetFiles(f"{tmp_path}/flows-%Y%m%d%H.parquet")
    output.write(COLUMNS)
    output.write(COLUMNS)
    assert [path.name for path in tmp_path.iterdir()] == ["flows-2026112212.parquet.part"]
    clock(NOON + 3600)
    output.tick()  # also in an hour without a verdict
    assert [path.name for path in tmp_path.iterdir()] == ["flows-2026112212.parquet"]
    output.write(COLUMNS)
    output.close()
    assert parquet_rows(tmp_path / "flows-2026112212.parquet") == 2
    assert parquet_rows(tmp_path / "flows-2026112213.parquet") == 1


def test_parquet_of_an_earlier_run_in_the_same_hour_stays(tmp_path, clock):
    pytest.importorskip("pyarrow")
    for _ in range(3):
        output = ParquetFiles(f"{tmp_path}/flows-%H.parquet")
        output.write(COLUMNS)
        output.close()
    names = {path.name: parquet_rows(path) for path in tmp_path.iterdir()}
    assert names == {"flows-12.parquet": 1, "flows-12-1.parquet": 1, "flows-12-2.parquet": 1}


def test_parquet_without_verdicts_leaves_an_empty_table(tmp_path):
    pytest.importorskip("pyarrow")
    with Targets([str(tmp_path / "flows.parquet")]):
        pass
    assert parquet_rows(tmp_path / "flows.parquet") == 0


def test_full_disk_cuts_no_line_and_work_goes_on_once_there_is_room(small_disk, caplog):
    path = small_disk / "flows.jsonl"
    many = columns_of(verdicts(*[Flow()] * 20))
    text = "\n".join(eve.lines(many)) + "\n"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(48 * 1024))
    with file_output(str(path)) as output:
        for _ in range(4):
            output.write(many)
        until(lambda: output.state()["error"] == "No space left on device")
        assert path.read_text() == text * (output.state()["written"] // 20)
        ballast.unlink()
        until(lambda: output.state()["waiting"] == 0)
    assert path.read_text() == text * 4
    assert output.dropped == 0
    assert len(caplog.records) == 2


def test_full_disk_gives_a_parquet_file_up_and_counts_its_rows(small_disk):
    pytest.importorskip("pyarrow")
    ballast = small_disk / "ballast"
    with file_output(str(small_disk / "flows.parquet")) as output:
        output.write(COLUMNS)
        until(lambda: output.state()["written"] == 1)
        with ballast.open("wb", buffering=0) as file:
            with pytest.raises(OSError):
                while True:
                    file.write(bytes(4096))
        output.reopen()
        until(lambda: output.state()["dropped"] == {"enospc": 1})
        ballast.unlink()
        output.write(COLUMNS)
    assert parquet_rows(small_disk / "flows.parquet") == 1
    assert [path.name for path in small_disk.iterdir()] == ["flows.parquet"]


@pytest.fixture
def small_disk(tmp_path, monkeypatch) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid():
        pytest.skip("needs root to mount a small file system")
    monkeypatch.setattr("etcpipe.outputs.queued.RETRY_S", 0.02)
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("name", ["flows.jsonl", "flows.parquet"])
def test_folder_that_is_not_there_is_one_error_before_anything_is_attached(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / "none" / name
    with pytest.raises(OutputError, match=rf"cannot write {path}: No such file or directory"):
        Targets([str(path)])


def test_log_that_becomes_unwritable_is_tried_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("etcpipe.outputs.queued.RETRY_S", 0.02)
    folder = tmp_path / "logs"
    folder.mkdir()
    with file_output(str(folder / "flows.jsonl")) as output:
        (folder / "flows.jsonl").unlink()
        folder.rename(tmp_path / "away")
        output.write(COLUMNS)
        until(lambda: output.state()["error"] == "No such file or directory")
        (tmp_path / "away").rename(folder)
        until(lambda: output.state()["written"] == 1)
    assert (folder / "flows.jsonl").read_text() == LINE
    assert len(caplog.records) == 2


def test_target_that_nobody_knows_is_refused():
    for target in ("flows", "flows.txt", "ftp://host/flows"):
        with pytest.raises(UsageError, match="the extension names the format"):
            Targets([target])
    with pytest.raises(UsageError, match=r"not one of prometheus, .*kafka"):
        Targets(["ftp://host/flows.csv"])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'etcpipe\[parquet\]'"):
        Targets([str(tmp_path / "flows.parquet")])
