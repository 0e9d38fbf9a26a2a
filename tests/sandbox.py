"""Runs a command as a systemd unit would have it run: capabilities, system calls, memory.

    sandbox.py UNIT COMMAND...

Only what a process can do to itself: where PID 1 is no systemd, nobody else does.
"""

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

import seccomp

PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN = 65, 1
# LimitMEMLOCK=infinity is the manager's to give; this right stands for it.
MEMLOCK = "+ipc_lock"


def settings(unit: Path) -> list[tuple[str, str]]:
    """Return (name, value) of the lines of a unit."""
    lines = unit.read_text().splitlines()
    return [tuple(line.split("=", 1)) for line in lines if "=" in line and line[0] not in "#;"]


def system_calls(names: str) -> set[str]:
    """Return the system calls that a list of names and @sets comes to."""
    calls: set[str] = set()
    for name in names.split():
        if name.startswith("@"):
            shown = subprocess.run(
                ["systemd-analyze", "syscall-filter", name],
                check=True,
                capture_output=True,
                text=True,
            )
            members = [line.strip() for line in shown.stdout.splitlines()[1:]]
            calls |= system_calls(" ".join(m for m in members if m and m[0] != "#"))
        else:
            calls.add(name)
    return calls


def allowed(unit: list[tuple[str, str]]) -> set[str]:
    """Return the system calls that a unit's filter leaves."""
    calls: set[str] = set()
    for name, value in unit:
        if name == "SystemCallFilter" and value.startswith("~"):
            calls -= system_calls(value[1:])
        elif name == "SystemCallFilter":
            calls |= system_calls(value)
    return calls


def main() -> None:
    unit = settings(Path(sys.argv[1]))
    by_name = dict(unit)
    capabilities = [
        f"+{name.removeprefix('CAP_').lower()}" for name in by_name["CapabilityBoundingSet"].split()
    ]
    chosen = ",".join(["-all", *capabilities, MEMLOCK])
    libc = ctypes.CDLL(None, use_errno=True)
    assert by_name["MemoryDenyWriteExecute"] == "yes"
    if libc.prctl(PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
        print("sandbox: this kernel knows no PR_SET_MDWE (6.3)", file=sys.stderr)
    calls = allowed(unit)  # asks programs, which want to run before there is a filter
    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    for call in sorted(calls):
        if seccomp.resolve_syscall(seccomp.Arch(), call) >= 0:
            rules.add_rule(seccomp.ALLOW, call)
    rules.load()
    wrapper = ["setpriv", f"--bounding-set={chosen}", f"--inh-caps={chosen}", "--no-new-privs"]
    os.execvp("setpriv", [*wrapper, *sys.argv[2:]])


if __name__ == "__main__":
    main()
