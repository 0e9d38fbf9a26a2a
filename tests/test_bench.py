"""The benchmarks run, and what they count is exact. No test here looks at a time."""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from test_cascade_offline import write_model

from etcpipe.batch import concatenate
from etcpipe.capture import Capture
from etcpipe.cli import bench
from etcpipe.errors import UnsupportedError
from etcpipe.gpu.regroup import Regroup

ROOT = Path(__file__).parents[1]
RECORDINGS = ROOT / "tests" / "data" / "lab"
PACKETS = 3_000

TCP, UDP = 6, 17
CHECKSUM_AT = {TCP: 16, UDP: 6}


def script(name: str, *options: object) -> str:
    command = [sys.executable, ROOT / "tools" / "bench" / f"{name}.py", *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    work = tmp_path_factory.mktemp("captures")
    said = script("captures", work, "--recordings", RECORDINGS, "--packets", PACKETS)
    return {name: Path(path) for name, path in (line.split("\t") for line in said.splitlines())}


def frames(path: Path) -> list[tuple[float, bytes]]:
    content, at, found = path.read_bytes(), 24, []
    while at < len(content):
        seconds, micros, captured, wire_len = struct.unpack_from("<4I", content, at)
        found.append((seconds + micros / 1e6, content[at + 16 : at + 16 + captured]))
        assert captured <= wire_len
        at += 16 + captured
    return found


def ones_complement_sum(octets: bytes) -> int:
    octets += b"\0" * (len(octets) % 2)
    total = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def transport_of(ip: bytes) -> tuple[int, bytes, bytes] | None:
    """Protocol, addresses and transport segment of a whole TCP or UDP packet, else None."""
    if ip[0] >> 4 == 4:
        header, length = (ip[0] & 15) * 4, int.from_bytes(ip[2:4], "big")
        protocol, addresses = ip[9], ip[12:20]
    else:
        header, length = 40, 40 + int.from_bytes(ip[4:6], "big")
        protocol, addresses = ip[6], ip[8:40]
    if length > len(ip) or protocol not in CHECKSUM_AT:
        return None
    return protocol, addresses, ip[header:length]


@pytest.mark.parametrize("name", ["mix", "short"])
def test_copied_packets_have_right_checksums(captures: dict[str, Path], name: str) -> None:
    checked = 0
    for _, frame in frames(captures[name]):
        if frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
            continue
        ip = frame[14:]
        if ip[0] >> 4 == 4:
            assert ones_complement_sum(ip[:20]) == 0xFFFF
        transport = transport_of(ip)
        if transport is None:
            continue
        protocol, addresses, segment = transport
        at = CHECKSUM_AT[protocol]
        if segment[at : at + 2] == b"\0\0":
            continue
        pseudo = addresses + struct.pack(">HH", protocol, len(segment))
        assert ones_complement_sum(pseudo + segment) == 0xFFFF
        checked += 1
    assert checked > PACKETS // 2


@pytest.mark.parametrize("name", ["mix", "short"])
def test_captures_have_as_many_packets_as_asked_in_order_of_time(
    captures: dict[str, Path], name: str
) -> None:
    times = [time for time, _ in frames(captures[name])]
    assert len(times) == PACKETS
    assert times == sorted(times)


def test_short_is_flows_of_ten_packets(captures: dict[str, Path]) -> None:
    capture = Capture([captures["short"]])
    for _ in capture:
        pass
    packets = capture.finish()["state"]["packets"].sum(axis=1)
    assert packets.tolist() == [10] * (PACKETS // 10)


def test_classify_counts_the_same_flows_as_ndpi(tmp_path: Path) -> None:
    options = ["--quick", "--json", "--packets", PACKETS, "--no-nfstream", "--work", tmp_path]
    report = json.loads(script("classify", *options))
    results = report["results"]
    assert results["etcpipe -o jsonl short"]["flows"] == PACKETS // 10
    assert results["etcpipe -o jsonl half"]["flows"] == PACKETS // 20
    for capture in ("mix", "short"):
        run = results[f"etcpipe {capture}"]
        assert run["cpu_s"]["median"] > 0
        assert run["peak_rss"]["median"] > 1_000_000
        if shutil.which("ndpiReader"):
            ours = results[f"etcpipe -o jsonl {capture}"]["flows"]
            assert results[f"ndpiReader {capture}"]["flows"] == ours
    assert report["environment"]["load_end"] >= 0


def test_raw_path_keeps_the_same_bytes_masked_or_not(tmp_path: Path) -> None:
    options = ["--quick", "--json", "--packets", PACKETS, "--no-nfstream", "--work", tmp_path]
    results = json.loads(script("raw_path", *options))["results"]
    masked, plain = results["etcpipe, masked"], results["etcpipe, bytes as they are"]
    for measure in ("flows", "packets", "kept", "late"):
        assert masked[measure] == plain[measure]
    assert PACKETS / 10 < masked["packets"] < PACKETS
    assert masked["kept"] > 100 * masked["packets"]


@pytest.fixture(scope="module")
def bench_tools() -> Iterator[None]:
    """The scripts' own modules, importable."""
    sys.path.insert(0, str(ROOT / "tools" / "bench"))
    yield
    sys.path.remove(str(ROOT / "tools" / "bench"))


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize("cores", [1, 3])
def test_the_papers_algorithm_keeps_the_bytes_that_ours_keeps(
    bench_tools: None, tmp_path: Path, cores: int
) -> None:
    paper_fe, flow_load = map(import_module, ("paper_fe", "flow_load"))
    library = paper_fe.compile_library(tmp_path)
    for case in flow_load.CASES:
        load = flow_load.Load(case, 150)
        regroup = Regroup(case.first_n, raw_len=case.raw_len, mask="none")
        rows = concatenate([regroup.add(batch) for batch in load.batches(0)])
        ours = rows.raw if case.raw_len else rows.packets["ip_len"] + flow_load.ETHERNET
        frames = (load.batch.memory, load.batch.offset, load.batch.captured, load.flow)
        with paper_fe.PaperExtraction(
            library, *frames, case.first_n, case.raw_len, cores
        ) as extraction:
            assert extraction.run() == len(rows) == 150
            theirs = extraction.features(150, ours.shape[1:]) if cores == 1 else None
        if theirs is not None:
            _, first = np.unique(load.flow, return_index=True)
            by_flow = theirs[np.argsort(np.argsort(first))]
            assert (by_flow == ours[np.argsort(rows.flow_id)]).all()


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_gpu_measures_the_cpu_where_there_is_no_gpu(tmp_path: Path) -> None:
    report = json.loads(script("gpu", "--quick", "--json", "--work", tmp_path))
    for times in report["results"]["seconds"].values():
        assert times["paper, 1 CPU"]["median"] > 0
        assert times["etcpipe, 1 CPU"]["median"] > 0
    assert report["results"]["latency_ms"]["cpu"]["logits of it"][0] > 0
    if report["environment"]["GPU"].startswith("no GPU"):
        assert report["results"]["link_bytes_a_second"] == "not measured"
        assert "gpu" not in report["results"]["latency_ms"]


def test_a_ratio_is_of_the_same_round(bench_tools: None) -> None:
    paired = import_module("paired")
    drifting = [10.0, 5.0, 20.0, 8.0]  # as a machine that changes its speed
    steady = paired.ratio([value * 0.9 for value in drifting], drifting)
    assert steady.text() == "0.90 (0.90 .. 0.90)"
    noisy = paired.ratio([9.0, 11.0, 10.0, 8.0, 12.0], [10.0] * 5)
    assert noisy.median == 1.0
    assert 0.8 <= noisy.low < 1.0 < noisy.high <= 1.2
    with pytest.raises(ValueError, match="3 values beside 2"):
        paired.ratio([1, 2, 3], [1, 2])


def test_every_round_has_every_case_in_an_order_of_its_own(bench_tools: None) -> None:
    paired = import_module("paired")
    turns = list(paired.shuffled("abcd", 20))
    orders = {"".join(case for turn, case in turns if turn == i) for i in range(20)}
    assert {"".join(sorted(order)) for order in orders} == {"abcd"}
    assert len(orders) > 5


def test_the_price_of_networks_is_taken_of_all_in_turns() -> None:
    pytest.importorskip("torch", reason="networks need etcpipe[torch]")
    names = ["traffic_moe_tiny", "dense_active_tiny"]
    report = json.loads(script("network_price", "--quick", "--json", "--archs", ",".join(names)))
    took = report["results"]["random"]
    assert list(took) == names
    assert all(len(values) == 2 and min(values) > 0 for values in took.values())


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("iperf3"), reason="needs iperf3")
def test_forward_accounts_for_every_first_packet(tmp_path: Path) -> None:
    ten = write_model(tmp_path / "ten.onnx", 10)
    options = ["--quick", "--json", "--streams", "2", "--work", tmp_path, "--model", ten]
    results = json.loads(script("forward", *options))["results"]
    assert all(run["gbits"]["median"] > 0 for run in results.values())
    accounts = {name: run["accounts"] for name, run in results.items() if "attached" in name}
    assert len(accounts) == 2
    for (account,) in accounts.values():
        assert account["missing"] == 0
        assert account["flows"] == 3  # two streams and iperf3's control connection
    (on_a_wire,) = accounts["TSO off, etcpipe attached, 2"]
    assert on_a_wire["expected"] == 3 * 10


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("iperf3"), reason="needs iperf3")
def test_wire_accounts_for_every_first_packet(tmp_path: Path) -> None:
    options = ["--quick", "--json", "--streams", "2", "--seconds", "0.3", "--work", tmp_path]
    results = json.loads(script("wire", *options))["results"]
    assert all(run["gbits"]["median"] > 0 for run in results.values())
    assert [results[name]["missing"] for name in results if "forward" in name] == [0] * 5


@pytest.mark.root
@pytest.mark.slow
def test_start_sees_a_first_packet(tmp_path: Path) -> None:
    options = ["--json", "--repeats", "1", "--loaders", "libbpf", "--work", tmp_path]
    results = json.loads(script("start", *options))["results"]
    libbpf = results["attach"]["libbpf"]
    assert 0 < libbpf["attach_s"]["median"] <= libbpf["first_packet_s"]["median"]
    assert libbpf["first_packet_s"]["median"] <= libbpf["from_start_s"]["median"]
    assert libbpf["rss"]["median"] > 10_000_000


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("clang") or not shutil.which("gcc"), reason="needs compilers")
def test_kernel_meets_the_flows_that_it_says(tmp_path: Path) -> None:
    results = json.loads(script("kernel", "--quick", "--json", "--work", tmp_path))["results"]
    made = {name: cost["created"] for name, cost in results["costs"].items() if cost["created"]}
    assert made == {"new flow, full table of 65,536": 10_000}
    # key and state of a flow are 112 bytes, and the kernel's own part is not twice as much
    assert 112 < results["bytes_a_flow"] < 336
    beside = [case for case in results["both_ways"] if case.startswith("xdp_track 32")]
    assert [case.split(" ", 2)[2] for case in beside] == [
        "alone",
        "beside other flows",
        "beside their answers",
    ]
    assert set(results["path"]) == {
        "no program",
        "empty tc program",
        "etcpipe, past the first N",
    }
    assert results["drain"]["missing"] == [0]
    assert results["drain"]["cpu_ns"][0] > 0


def test_bench_needs_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "SCRIPTS", tmp_path / "none")
    result = CliRunner().invoke(bench.bench, ["classify"])
    assert isinstance(result.exception, UnsupportedError)
    assert "source checkout" in str(result.exception)
