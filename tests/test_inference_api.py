"""Every call that is made of TensorRT exists in TensorRT 10, 11 and TensorRT for RTX.

A plan is built and run with a TensorRT that notes its calls; they are held to the interface
of the real bindings, which are imported over libraries that do nothing.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trt_stub import fake_cupy, fake_tensorrt

from etcpipe.errors import EngineError
from etcpipe.gpu import inference_tensorrt, tensorrt_plan
from etcpipe.gpu.inference import open_runner

networks = pytest.importorskip("networks", reason="making models needs etcpipe[train]")

STUB = Path(__file__).parent / "trt_stub"
INSTALLED = Path(__file__).parents[1] / "build" / "tensorrt"
CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

# What the types of the noted arguments are in the bindings' signatures.
TYPES = {
    "int": ("typing.SupportsInt", "int"),
    "str": ("str",),
    "tuple": ("Dims", "tuple"),
    # of Python up to 3.11, and from 3.12 on
    "bytes": ("typing_extensions.Buffer", "collections.abc.Buffer", "buffer"),
    "Logger": ("ILogger",),
}


def interface(module: str, **environment: str) -> dict:
    done = subprocess.run(
        [sys.executable, STUB / "interface.py", module],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["10.16.1.11", "11.4.0.106", "rtx"])
def real(request, tmp_path_factory):
    """The interface of one version."""
    if request.param == "rtx":
        pytest.importorskip("tensorrt_rtx_bindings", reason="needs etcpipe[gpu-test]")
        return interface("tensorrt_rtx_bindings")
    bindings = INSTALLED / request.param
    if not bindings.is_dir() or CC is None:
        pytest.skip("needs the bindings that tools/setup test installs, and a C compiler")
    folder = tmp_path_factory.mktemp("libraries")
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = folder / f"lib{name}.so.{request.param.split('.')[0]}"
        subprocess.run([CC, "-shared", "-fPIC", "-o", library, STUB / "nvinfer.c"], check=True)
    found = interface("tensorrt_bindings", LD_LIBRARY_PATH=str(folder), PYTHONPATH=str(bindings))
    assert found["version"] == request.param
    return found


@pytest.fixture
def calls(gpu):
    """The calls of building, loading, running, capturing and failing."""
    fake_tensorrt.calls.clear()
    runner = open_runner(networks.transformer(), device="tensorrt")
    for _ in range(3):
        runner.infer(networks.rows_for(runner, 8))
    assert runner.infer_device(fake_cupy.zeros((300, 30, 3), "f4"), fake_cupy.Stream()) is not None
    fake_tensorrt.failing.add("parse")
    with pytest.raises(EngineError):
        open_runner(networks.mlp(), device="tensorrt")
    return {call for call in fake_tensorrt.calls if call[0] != "Noted"}


def test_every_call_exists_and_takes_these_arguments(real, calls):
    called = {(owner, member) for owner, member, _ in calls}
    assert len(called) > 30
    for owner, member, arguments in calls:
        assert member in real["interface"][owner], f"{owner}.{member}"
        known = real["interface"][owner][member]
        assert not known or any(_takes(signature, arguments) for signature in known), (
            owner,
            member,
            arguments,
            known,
        )


def test_every_constant_exists(real):
    for name in _constants():
        owner, _, member = name.partition(".")
        assert owner in real["interface"], name
        assert not member or member in real["interface"][owner], name


def test_what_was_removed_is_noticed(real):
    """The check itself: calls of earlier versions are in none of these."""
    assert "build_engine" not in real["interface"]["Builder"]
    assert "execute_v2" in real["interface"]["IExecutionContext"]
    (parse,) = real["interface"]["OnnxParser"]["parse"]
    assert _takes(parse, (bytes,)) and not _takes(parse, (int,)) and not _takes(parse, ())


def _constants() -> set[str]:
    """Return what the sources name of the module: trt.Name and trt.Name.MEMBER."""
    found = set()
    for module in (tensorrt_plan, inference_tensorrt):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Attribute):
                text = ast.unparse(node)
                match = re.fullmatch(r"(?:self\._)?trt\.((?!__)\w+(?:\.[A-Z]\w*)?)", text)
                found |= {match[1]} if match else set()
    assert {"Builder", "BuilderFlag.TF32", "TensorIOMode.INPUT", "nptype"} <= found
    return found


def _takes(signature: str, arguments: tuple[type, ...]) -> bool:
    """Return whether a method of this signature can be called with such arguments."""
    listed = re.match(r"\w+\((.*)\) -> ", signature)
    parameters = re.split(r", (?=\w+: )", listed[1])[1:] if listed else []
    needed = [text for text in parameters if " = " not in text]
    if not len(needed) <= len(arguments) <= len(parameters):
        return False
    return all(map(_is_of, parameters, arguments))


def _is_of(parameter: str, argument: type) -> bool:
    wanted = parameter.partition(": ")[2].partition(" = ")[0]
    names = TYPES.get(argument.__name__, (argument.__name__,))
    return any(wanted.endswith(name) for name in names)
