"""Real-time classification of encrypted traffic, from the wire to a verdict."""

__version__ = "0.1.0"
