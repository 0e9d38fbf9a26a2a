"""Real-time classification of encrypted traffic, from the wire to a verdict."""

__version__ = "0.1.0"


def __getattr__(name: str):
    # classify and attach pull in NumPy and the engines: only when used.
    if name == "classify":
        from etcpipe.offline import classify

        return classify
    if name == "attach":
        from etcpipe.live import attach

        return attach
    raise AttributeError(f"module 'etcpipe' has no attribute {name!r}")
