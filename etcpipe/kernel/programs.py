"""Which loader loads the programs."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from etcpipe.errors import PermissionDeniedError, UnsupportedError
from etcpipe.kernel import libbpf
from etcpipe.kernel.build import Build, Loaded

# A flow table above this may take the last memory that there is. Asked for alone, the kernel
# refuses it; beside a block that needs a little too, the block's process may be killed.
FLOWS_BESIDE_MAX = 1 << 20


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
        return _load_by_bcc(build)
    try:
        return libbpf.load(build)
    except PermissionDeniedError:
        raise
    except UnsupportedError as missing:
        try:
            return _load_by_bcc(build)
        except UnsupportedError as also_missing:
            raise UnsupportedError(f"{missing}; {also_missing}") from also_missing


def _load_by_bcc(build: Build) -> Loaded:
    from etcpipe.kernel import bcc_loader  # rarely needed, and what it imports takes a while

    return bcc_loader.load(build)


@contextmanager
def loading(build: Build) -> Iterator[Future[Loaded]]:
    """Load beside the block, whose Python runs meanwhile: to verify takes the kernel a while.

    What the future holds is closed again if the block fails.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(load, build)
        if build.settings.max_flows > FLOWS_BESIDE_MAX:
            future.result()
        try:
            yield future
        except BaseException:
            if not future.exception():
                future.result().close()
            raise
