"""Names of the flow timeouts, and how they are written on the command line."""

from etcpipe.errors import UsageError

# Each is a setting <name>_timeout_s of a tap, and but for "active" of a capture.
TIMEOUTS = ("establish", "idle", "active", "tombstone")


def parse(text: str) -> dict[str, float]:
    """Return settings from "idle=60,active=600": {"idle_timeout_s": 60.0, ..}.

    Raises:
        UsageError: a name is not one of TIMEOUTS, or a value is no number of seconds.
    """
    settings = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name.strip() not in TIMEOUTS:
            raise UsageError(f"timeout {part!r}: write {'=S, '.join(TIMEOUTS)}=S")
        try:
            seconds = float(value)
        except ValueError:
            raise UsageError(f"timeout {part!r}: {value!r} is no number of seconds") from None
        settings[f"{name.strip()}_timeout_s"] = seconds
    return settings


def parse_sample(text: str) -> dict[str, int]:
    """Return settings from "1/100" or "1/100:7" (the seed): {"sample": 100, ..}.

    Raises:
        UsageError: it is written in another way.
    """
    ratio, _, seed = text.partition(":")
    one, _, every = ratio.partition("/")
    if one.strip() != "1" or not every.strip().isdigit() or not (seed or "0").isdigit():
        raise UsageError(f"sample {text!r}: write 1/K, or 1/K:SEED")
    return {"sample": int(every), "sample_seed": int(seed or 0)}
