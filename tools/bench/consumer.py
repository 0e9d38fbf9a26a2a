"""Attaches etcpipe to a device until SIGTERM and prints, one JSON object a line:

    once attached               {"import_s", "model_s", "enter_s", "attach_s" (their sum),
                                 "attached_at", "cpu_s", "mode", "reason", "loader", "first_n"}
    --first-packet: seen one    {"first_packet_at"}
    at the end                  {"counters", "lost", "flows", "packets_used", "cpu_s"}

Times are CLOCK_MONOTONIC in seconds, which all processes of the machine share.
"""

import argparse
import json
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etcpipe.live.tap import Live

POLL_S = 0.0005


def main() -> None:
    """Attach, count, print."""
    options = _options()
    called = time.monotonic()
    from etcpipe import attach

    imported = time.monotonic()
    watched = options.pop("first_packet")
    live = attach(options.pop("device"), **options)
    opened = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, frame: live.stop())
    with live:
        attached = time.monotonic()
        _print(
            import_s=imported - called,
            model_s=opened - imported,
            enter_s=attached - opened,
            attach_s=attached - called,
            attached_at=attached,
            cpu_s=time.process_time(),
            mode=live.mode,
            loader=live.loader,
            reason=live.mode_reason,
            first_n=live.model.first_n,
        )
        if watched:
            threading.Thread(target=_watch, args=(live,), daemon=True).start()
        _count(live)


def _options() -> dict[str, Any]:
    """Return what attach() is called with by name, and first_packet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device")
    parser.add_argument("netns")
    parser.add_argument("--loader", default="auto")
    parser.add_argument("--mode", default="auto")
    parser.add_argument("--forward")
    parser.add_argument("--model")
    parser.add_argument("--capture", default="afxdp")
    parser.add_argument("--first-packet", action="store_true")
    return vars(parser.parse_args())


def _count(live: "Live") -> None:
    """Take verdicts until the end, and say what came."""
    flows = packets_used = 0
    for verdicts in live:
        flows += len(verdicts)
        packets_used += int(verdicts.packets_used.sum())
    _print(
        counters=live.counters(),
        lost=live.lost(),
        flows=flows,
        packets_used=packets_used,
        cpu_s=time.process_time(),
    )


def _watch(live: "Live") -> None:
    """Say when the first packet was handed to this process's socket."""
    while not live.counters()["PACKETS_REDIRECTED"]:
        time.sleep(POLL_S)
    _print(first_packet_at=time.monotonic())


def _print(**values) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
