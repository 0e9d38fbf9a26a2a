"""Which loader loads the programs."""

from etcpipe.errors import PermissionDeniedError, UnsupportedError
from etcpipe.kernel import bcc_loader, libbpf
from etcpipe.kernel.settings import Build, Loaded


def load(build: Build) -> Loaded:
    """Return the loaded programs and maps.

    Raises:
        UnsupportedError: the loader asked for is not installed, or the kernel takes no
            version of the programs.
        PermissionDeniedError: loading needs capabilities that this process lacks.
        DataplaneError: the kernel refused.
    """
    wanted = build.settings.loader
    if wanted == "libbpf":
        return libbpf.load(build)
    if wanted == "bcc":
        return bcc_loader.load(build)
    try:
        return libbpf.load(build)
    except PermissionDeniedError:
        raise
    except UnsupportedError as missing:
        try:
            return bcc_loader.load(build)
        except UnsupportedError as also_missing:
            raise UnsupportedError(f"{missing}; {also_missing}") from also_missing
