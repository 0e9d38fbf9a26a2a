"""Everything etcpipe raises on purpose.

Each class carries the exit code of its kind (DESIGN: 1 failed, 2 wrong usage, 4 not
permitted, 5 not supported here); the command line prints the message and exits with it.
The message is one line and says what to do.
"""


class EtcpipeError(Exception):
    """Base class of every error that a user can act on."""

    exit_code = 1


class UsageError(EtcpipeError):
    """An argument is out of range or contradicts another one."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file is no TOML, or sets what there is not."""


class PermissionDeniedError(EtcpipeError):
    """A capability is missing (CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW) or a limit is too low."""

    exit_code = 4


class UnsupportedError(EtcpipeError):
    """This kernel, driver or machine cannot do what was asked."""

    exit_code = 5


class EngineError(UnsupportedError):
    """An inference engine is missing, refuses the model, or failed: another one can do it."""


class DeviceLostError(EngineError):
    """The GPU failed in the middle of its work, and answers this process no more."""


class LayoutError(EtcpipeError):
    """The shared header breaks its own rules."""


class DataplaneError(EtcpipeError):
    """The kernel refused a load, attach or map operation, or a device is gone."""


class CaptureError(EtcpipeError):
    """A capture file cannot be read: missing, empty, foreign, or of an unknown link type."""


class ModelError(EtcpipeError):
    """A model file is damaged, foreign, or made for other inputs than these."""


class OutputError(EtcpipeError):
    """Results cannot be written: no such folder, no right, or a full disk."""


class LabError(EtcpipeError):
    """The lab lacks a program or a right, or a session of it failed."""
