"""`etcpipe show` without what other verbs need: importing that takes longer than all else.

Only where nothing but a device and -n was given, and where running taps say themselves all
that there is to show. Everything else goes the ordinary way, which prints the same lines.
"""

from collections.abc import Mapping, Sequence

from etcpipe.errors import EtcpipeError


def show(args: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Do what `etcpipe ARGS` asks for, if it is that; returns whether it was done."""
    names_namespace = len(args) > 2 and args[0] == "-n"
    namespace, words = (args[1], args[2:]) if names_namespace else (None, args)
    verb, *devices = words or [""]
    is_plain = verb == "show" and len(devices) < 2 and "help" not in devices
    is_plain &= not any(word.startswith("-") for word in (*devices, namespace or ""))
    if not is_plain or any("ETCPIPE_" in name for name in environ):
        return False
    from etcpipe.cli import taps_table
    from etcpipe.kernel import glance, netns

    device = devices[0] if devices else None
    try:
        taps = glance.taps(netns.inode(namespace) if namespace or device else None, device)
        if taps is None or any(tap.get("shadow") for tap in taps):
            return False
        print(*taps_table.lines(taps, device), sep="\n", flush=True)
    except (EtcpipeError, OSError):
        return False  # the ordinary way meets it too, and says what to do
    return True
