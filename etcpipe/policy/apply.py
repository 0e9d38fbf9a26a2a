"""A policy's queues on a device, made and taken away by tc, and what they let pass.

What was made is written down beside the tap's journal (/run/etcpipe), so that it can be undone
by another process, and never something that somebody else put there since.
"""

import json
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from etcpipe.errors import DataplaneError, UsageError
from etcpipe.kernel import checks, journal, links, netns
from etcpipe.live import requests as live_requests
from etcpipe.outputs.watch import read_reports
from etcpipe.policy.rules import Policy
from etcpipe.policy.tree import LEAVES, Tree, undo_command

SUFFIX = ".tree"
# what tc says of a kind of queue that the kernel lacks; the latter before Linux 4.16
_NO_SUCH_KIND = re.compile("qdisc kind is unknown|RTNETLINK answers: No such file")
# of struct tc_stats, by the names that show() has
_COUNTS = {"packets": "packets", "bytes": "bytes", "drops": "drop", "backlog_bytes": "backlog"}


def has_queue(kind: str) -> bool:
    """Return whether this kernel has a kind of queue, built in or as a module.

    It is tried in a network namespace that ends with the trial; without the right to make one,
    the kernel is taken to have it.
    """
    trial = ["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", kind]
    try:
        said = subprocess.run(trial, capture_output=True, text=True).stderr
    except FileNotFoundError:
        return True
    return not _NO_SUCH_KIND.search(said)


def fitted(policy: Policy, has: Callable[[str], bool] = has_queue) -> Policy:
    """Return a policy whose classes have the next queue of LEAVES that this kernel has."""
    if policy.tree is None:
        return policy
    choice = LEAVES[LEAVES.index(policy.tree.leaf) :]
    leaf = next((kind for kind in choice[:-1] if has(kind)), choice[-1])
    return replace(policy, tree=replace(policy.tree, leaf=leaf))


def plan(device: str, namespace: str | None, policy: Policy) -> list[list[str]]:
    """Return the tc commands that apply() would run with this policy, nothing changed.

    Raises:
        DataplaneError: somebody else's queues are there, or no such device.
    """
    if policy.tree is None:
        return []
    ours = _read(_path(device, namespace))
    with netns.enter(namespace):
        is_there = _find_ours(device, ours)
    commands = [undo_command(device)] if is_there else []
    commands += policy.tree.commands(device)
    within = ["-n", namespace] if namespace else []
    return [[tc, *within, *rest] for tc, *rest in commands]


def apply(device: str, namespace: str | None, policy: Policy, file: str) -> dict[str, Any]:
    """Let a policy act: on the verdicts of the attach that runs there, and by its tree.

    Args:
        policy: of fitted(), else tc refuses queues that the kernel lacks.
        file: where it was read.

    Returns:
        {file, attached: whether one runs, classes: of the tree that was made}.

    Raises:
        PermissionDeniedError: CAP_NET_ADMIN is missing.
        UsageError: there is nothing to be done.
        DataplaneError: the attach refused it, somebody else's queues are there, or tc refused;
            all is as it was at the start.
    """
    checks.capabilities()
    attached = live_requests.is_running(device, namespace)
    if not attached and policy.tree is None:
        raise UsageError(f"{device}: no attach runs there, and the policy has no [tree]")
    plan(device, namespace, policy)  # what is in the way is found before anything is changed
    if attached:
        live_requests.ask(device, namespace, "policy", file)
    if policy.tree:
        try:
            _make(device, namespace, policy.tree, file)
        except DataplaneError:
            if attached:
                live_requests.ask(device, namespace, "policy-undo")
            raise
    classes = len(policy.tree.classes) if policy.tree else 0
    return {"file": file, "attached": attached, "classes": classes}


def undo(device: str, namespace: str | None) -> None:
    """Take our tree away, and let verdicts act as the attach there was started.

    Raises:
        DataplaneError: there is neither, or somebody replaced the tree since.
    """
    checks.capabilities()
    path = _path(device, namespace)
    ours = _read(path)
    attached = live_requests.is_running(device, namespace)
    if ours is None and not attached:
        raise DataplaneError(f"{device}: no policy was applied there")
    if attached:
        live_requests.ask(device, namespace, "policy-undo")
    with netns.enter(namespace):
        is_there = links.ifindex_of(device) is not None  # or its queues went with it
        if ours and is_there and _find_ours(device, ours):
            _tc(undo_command(device))
    path.unlink(missing_ok=True)
    with suppress(OSError):  # taps of this namespace are there, or nothing ever was
        path.parent.rmdir()


def show(device: str, namespace: str | None) -> dict[str, Any]:
    """Return the rules that act on a device and its tree with what passed.

    {rules: as Policy.describe(), tree: None or {file, since, handle, rate, classes: [{name, id,
    rate, ceil, prio, packets, bytes, drops, backlog_bytes}]}}, rates in bit/s.
    """
    checks.capabilities()
    reports = read_reports([(netns.inode(namespace), device)])
    rules = reports[0].get("policy", []) if reports else []
    tree = _read(_path(device, namespace))
    if tree is not None:
        with netns.enter(namespace):
            _add_counts(tree, device)
    return {"rules": rules, "tree": tree}


def _make(device: str, namespace: str | None, tree: Tree, file: str) -> None:
    path = _path(device, namespace)
    ours = _read(path)
    with netns.enter(namespace):
        if _find_ours(device, ours):
            _tc(undo_command(device))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(json.dumps(_note(tree, file)) + "\n")
        try:
            for command in tree.commands(device):
                _tc(command)
        except DataplaneError:
            with suppress(DataplaneError):  # not even the root was made
                _tc(undo_command(device))
            path.unlink()
            raise


def _add_counts(tree: dict[str, Any], device: str) -> None:
    """Say what each class let pass. By rtnetlink: tc 6.1 shows classes as text only."""
    with links.iproute() as ip:
        found = ip.get_classes(links.ifindex_of(device) or 0)
        by_id = {one["handle"]: one.get_attr("TCA_STATS") or {} for one in found}
    for one in tree["classes"]:
        major, minor = (int(half, 16) for half in one["id"].split(":"))
        stats = by_id.get(major << 16 | minor, {})
        for name, theirs in _COUNTS.items():
            one[name] = stats.get(theirs, 0)


def _path(device: str, namespace: str | None) -> Path:
    return journal.run_path(netns.inode(namespace), device, SUFFIX)


def _note(tree: Tree, file: str) -> dict[str, Any]:
    classes = [
        {
            "name": one.name,
            "id": f"{tree.handle()}{one.minor:x}",
            "rate": one.rate,
            "ceil": one.ceil,
            "prio": one.prio,
        }
        for one in tree.classes
    ]
    return {
        "handle": tree.handle(),
        "file": file,
        "since": datetime.now(timezone.utc).isoformat("T", "seconds"),
        "rate": tree.rate,
        "classes": classes,
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _find_ours(device: str, ours: dict[str, Any] | None) -> bool:
    """Return whether our tree is at the root; False: the kernel's own queues are there.

    Raises:
        DataplaneError: neither is.
    """
    root = _root(device)
    if root and not (ours and (root["kind"], root["handle"]) == ("htb", ours["handle"])):
        raise DataplaneError(
            f"{device}: its queues ({root['kind']} {root['handle']}) were made by somebody else: "
            f"remove them first (tc qdisc del dev {device} root)"
        )
    return root is not None


def _root(device: str) -> dict[str, Any] | None:
    """Return the root qdisc, None if it is the one that the kernel gives by itself."""
    found = json.loads(_tc(["tc", "-j", "qdisc", "show", "dev", device]) or "[]")
    roots = [one for one in found if one.get("root") and one.get("handle") != "0:"]
    return roots[0] if roots else None


def _tc(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise DataplaneError("tc is not installed: apt install iproute2") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[0]
        raise DataplaneError(f"{' '.join(command)}: {reason}")
    return done.stdout
