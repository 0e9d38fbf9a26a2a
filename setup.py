"""The native extension; everything else is in pyproject.toml and setup.cfg."""

from glob import glob

from setuptools import Extension, setup

# Py_LIMITED_API 3.10: one build serves every Python from Ubuntu 22.04's on.
setup(
    ext_modules=[
        Extension(
            "etcpipe._native",
            sources=sorted(glob("etcpipe/native/*.c")),
            depends=glob("etcpipe/native/*.h") + glob("bpf/*.h"),
            libraries=["pcap"],
            define_macros=[("Py_LIMITED_API", "0x030A0000")],
            include_dirs=["bpf"],
            extra_compile_args=[
                *("-std=gnu11", "-O3", "-Wall", "-Wextra", "-fvisibility=hidden"),
                "-ffp-contract=off",  # feature rows have the bits of NumPy's
            ],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
