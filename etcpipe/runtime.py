"""What Debian's packages leave out: where it is found, and what is said where it is missing.

Engines and libraries that the distribution has not lie under /opt/etcpipe, for one version of
Python each. etcpipe-install-runtime of the Debian package puts engines there, pip --target
whatever else is wanted; nothing of it is seen by other programs. In a virtual environment they
are installed as any other package, and /opt/etcpipe is left alone.
"""

import sys
from pathlib import Path

FOLDER = Path("/opt/etcpipe")
INSTALLER = Path("/usr/sbin/etcpipe-install-runtime")

# What the installer's list for GPUs has, beside ONNX Runtime.
GPU_PACKAGES = ("cupy-cuda13x", "nvidia-cuda-nvrtc", "tensorrt-rtx-cu13")

# Extras of pyproject.toml: Debian 12's packages of them, pip's where it has none or too old ones.
APT = {
    "kafka": "python3-confluent-kafka",
    "metrics": "python3-prometheus-client",
    "monitor": "python3-rich",
    "plot": "python3-matplotlib",
    "web": "python3-starlette python3-uvicorn python3-prometheus-client",
}
PIP = {
    "parquet": "pyarrow",
    "torch": "torch lightgbm onnx scikit-learn",
    "train": "lightgbm onnx scikit-learn",
    "tune": "optuna lightgbm onnx scikit-learn threadpoolctl",
}


def use(folder: Path = FOLDER) -> None:
    """Let imports find what was installed for this Python, before the distribution's packages.

    Before, since an engine for a GPU brings a newer NumPy along. Call it before the first
    import of such a package.
    """
    packages = _packages(folder)
    if not _is_virtual() and packages.is_dir() and str(packages) not in sys.path:
        first = next((i for i, path in enumerate(sys.path) if "-packages" in path), len(sys.path))
        sys.path.insert(first, str(packages))


def remedy(package: str = "onnxruntime") -> str:
    """Return the command that brings a missing engine or library here."""
    if not _is_packaged():
        return f"pip install {package}"
    if package == "onnxruntime":
        return f"run {INSTALLER.name}"
    if package in GPU_PACKAGES:
        return f"run {INSTALLER.name} gpu"
    return f"pip install --target {_packages(FOLDER)} {package}"


def remedy_for(extra: str) -> str:
    """Return the command that brings an optional part of etcpipe, an extra, here."""
    if not _is_packaged():
        return f"pip install 'etcpipe[{extra}]'"
    return f"apt install {APT[extra]}" if extra in APT else remedy(PIP[extra])


def _packages(folder: Path) -> Path:
    return folder / f"python{sys.version_info.major}.{sys.version_info.minor}"


def _is_packaged() -> bool:
    """Is this the etcpipe of the Debian package? It has the installer beside it."""
    return not _is_virtual() and INSTALLER.exists()


def _is_virtual() -> bool:
    return sys.prefix != sys.base_prefix
