"""Made-up labelled flows and captures, so that a training knows what there is to learn."""

from ipaddress import ip_address
from struct import pack

import numpy as np

from etcpipe.dataset import STATS, Dataset

EVERY = STATS.column_names("none")


SERVERS = {"small": "198.18.0.1", "large": "198.18.0.2"}


def made_up(classes=3, captures=6, flows=480, seed=0, is_shuffled=False, views=None):
    """A dataset whose classes differ in s_bytes_mean alone, or in nothing if shuffled.

    Args:
        views: makes further views of the labels and a random generator.
    """
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, flows).astype(np.int32)
    stats = rng.normal(500, 100, (flows, len(EVERY))).astype(np.float32)
    stats[:, EVERY.index("s_bytes_mean")] += 400 * label
    return Dataset(
        stats=stats,
        seq=rng.normal(0, 1, (flows, 30, 3)).astype(np.float32),
        label=rng.permutation(label) if is_shuffled else label,
        capture=(np.arange(flows) % captures).astype(np.int32),
        classes=tuple(f"class{i}" for i in range(classes)),
        captures=tuple(f"{i}.pcap" for i in range(captures)),
        views=views(label, rng) if views else {},
    )


def ethernet_udp(source, target, ports, payload_len):
    udp = pack("!4H", *ports, 8 + payload_len, 0) + bytes(payload_len)
    addresses = ip_address(source).packed + ip_address(target).packed
    ip = pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses
    return bytes(12) + b"\x08\x00" + ip + udp


def write_capture(path, seed, flows=15, servers=SERVERS):
    """A classic pcap: per server some flows of three packets each way, small or large."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(flows):
        for name, server in servers.items():
            start_us = int(1e6 * i + rng.integers(0, 1000))
            for step in range(6):
                size = int(rng.integers(10, 80) if name == "small" else rng.integers(700, 1400))
                ends = ("198.18.9.9", server), (20000 + i, 4433)
                if step % 2:
                    ends = ends[0][::-1], ends[1][::-1]
                frame = ethernet_udp(*ends[0], ends[1], size)
                records.append((start_us + 1000 * step, frame))
    with path.open("wb") as file:
        file.write(pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for at, frame in sorted(records, key=lambda record: record[0]):
            file.write(pack("<IIII", at // 10**6, at % 10**6, len(frame), len(frame)) + frame)


def write_recordings(folder, first_seed=0):
    """Four captures with a labels.csv; return their folder."""
    lines = ["capture,label,address,protocol,port"]
    for i in range(4):
        write_capture(folder / f"{i}.pcap", seed=first_seed + i)
        lines += [f"{i}.pcap,{name},{server},udp,4433" for name, server in SERVERS.items()]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder
