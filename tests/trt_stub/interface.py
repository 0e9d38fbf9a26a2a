"""Prints the interface of a module of TensorRT's as JSON: {class: {member: [signature]}}.

    python interface.py tensorrt_bindings

pybind11 writes signatures, all of them where a method is overloaded, into docstrings.
"""

import importlib
import inspect
import json
import re
import sys


def signatures(name: str, member: object) -> list[str]:
    """Return the signatures of a method; none for a property or a constant."""
    lines = (getattr(member, "__doc__", None) or "").splitlines()
    found = [re.sub(r"^\s*\d+\. ", "", line) for line in lines]
    return [line for line in found if line.startswith(f"{name}(self: ")]


def members(cls: type) -> dict[str, list[str]]:
    """Return the members of a class, those of classes in it as Inner.member."""
    found = {}
    for name in dir(cls):
        if name == "__init__" or not name.startswith("_"):
            member = getattr(cls, name)
            found[name] = signatures(name, member)
            if inspect.isclass(member):
                found.update({f"{name}.{inner}": [] for inner in dir(member)})
    return found


def interface(module: object) -> dict[str, dict[str, list[str]]]:
    """Return what is in a module; functions as classes without members."""
    names = [name for name in dir(module) if not name.startswith("_")]
    things = {name: getattr(module, name) for name in names}
    return {name: members(it) if inspect.isclass(it) else {} for name, it in things.items()}


if __name__ == "__main__":
    module = importlib.import_module(sys.argv[1])
    print(json.dumps({"version": module.__version__, "interface": interface(module)}))
