"""Who may import whom: the layout's rules, read from the source text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import teravec
from teravec.native import extensions

ROOT = Path(teravec.__file__).parent
SIDE_ROOMS = ("native", "kernels", "engines", "storage", "filters")
BASICS = (
    *("errors", "arguments", "memory", "processors", "cgroups"),
    *("progress", "thread_times", "bars", "report"),
)
STAGES: dict[str, tuple[str, ...]] = {
    "sources": (),
    "model": ("sources",),
    "training": ("sources", "model"),
    "segments": ("sources", "model"),
    "index": ("sources", "model", "segments"),
    "search": ("sources", "model", "segments", "index"),
    "bulk": ("sources", "model", "segments", "index", "search"),
    "evaluation": ("sources", "model", "training", "segments", "index", "search", "bulk"),
    "serving": ("sources", "model", "segments", "index", "search", "bulk"),
    "writing": (
        "sources",
        "model",
        "training",
        "segments",
        "index",
        "search",
        "bulk",
        "evaluation",
    ),
}
"""Each stage, and the stages that it may import beside the side rooms."""

SERVING = ("wire", "server", "coordinator", "loop", "flight", "http", "deploy")
"""Rooms of serving; each may import those before it, but the three after server not each other."""

TOP = (
    "advising",
    "api",
    "building",
    "changing",
    "checking",
    "choosing",
    "cli",
    "duplicating",
    "exchanging",
    "granting",
    "integrations",
    "interchange",
    "measuring",
    "planning",
    "predicting",
    "querying",
    "selftest",
    "slurm",
    "staging",
    "tables",
    "__main__",
    "",
)  # "" is the package itself

ONLY_IN = {
    "faiss": ("kernels", "interchange"),
    "ray": ("engines",),
    "obstore": ("storage",),
    "torch": ("kernels",),
    "opentelemetry": ("serving",),
    "pyarrow.flight": ("serving",),
    "sqlglot": ("filters",),
    **dict.fromkeys(
        (
            "aiohttp",
            "bottle",
            "django",
            "fastapi",
            "flask",
            "grpc",
            "hpack",
            "httptools",
            "httpx",
            "requests",
            "sanic",
            "socketserver",
            "starlette",
            "tornado",
            "urllib",
            "urllib3",
            "uvicorn",
            "uvloop",
            "websockets",
            "wsgiref",
            "xmlrpc",
        ),
        ("serving",),
    ),
    "http": ("serving", "storage"),
}
DESCRIPTOR_CALLS = {
    *("open", "close", "dup", "dup2", "fdopen", "memfd_create", "pipe", "pipe2", "openat"),
    *("read", "readv", "pread", "preadv", "write", "writev", "pwrite", "pwritev", "sendfile"),
    *("fstat", "fsync", "fdatasync", "ftruncate", "fchmod", "lseek", "posix_fadvise"),
    *("posix_fallocate", "copy_file_range", "splice"),
}
"""Functions of ``os`` that take or return descriptors."""

ANYWHERE = ("urllib.parse.unquote",)
"""Part of a network library, but no network."""

NEVER = ("pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")

Imports = dict[str, set[str]]


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a module imports; of ``from a import b``, a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            if name in ("import_module", "__import__"):
                yield str(node.args[0].value)


def read_imports(root: Path) -> Imports:
    """What each module imports, by the module's dotted name."""
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = set(imported(ast.parse(path.read_text(), str(path))))
    return found


def room_of(module: str) -> str:
    """First name below ``teravec``."""
    return module.removeprefix("teravec").lstrip(".").split(".")[0]


def may_import(room: str) -> tuple[str, ...]:
    """Rooms that a room's modules may import."""
    if room in TOP:
        return (*STAGES, *SIDE_ROOMS, *BASICS, *TOP)
    if room in STAGES:
        return (room, *STAGES[room], *SIDE_ROOMS, *BASICS)
    if room in ("native", "thread_times"):
        return ("native", *BASICS)
    return (*SIDE_ROOMS, *BASICS) if room in SIDE_ROOMS else BASICS


def own(imports: Imports, module: str) -> set[str]:
    """Modules of this package that a module imports, itself left out.

    ``from teravec.native import extensions`` names a module as a whole, ``from teravec.errors
    import X`` by its first part.
    """
    found = set()
    for name in imports[module]:
        while name and name not in imports:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {module, ""}


def layer_violations(imports: Imports) -> list[str]:
    found = []
    for module in imports:
        room = room_of(module)
        if room not in (*TOP, *STAGES, *SIDE_ROOMS, *BASICS):
            found.append(f"{module} is in no known room")
            continue
        allowed = may_import(room)
        found += [
            f"{module} imports {name}"
            for name in own(imports, module)
            if room_of(name) not in allowed
        ]
    return found


def serving_room(module: str) -> str:
    """The room within serving, or nothing."""
    return module.split(".")[2] if module.startswith("teravec.serving.") else ""


def serving_violations(imports: Imports) -> list[str]:
    """Imports from a room of serving to one that comes after it, or beside it."""
    found = []
    for module in imports:
        for name in own(imports, module):
            here, there = serving_room(module), serving_room(name)
            if here and there and here != there:
                later = SERVING.index(there) > SERVING.index(here)
                if later or {here, there} <= {"coordinator", "flight", "http"}:
                    found.append(f"{module} imports {name}")
    return found


def outside_violations(imports: Imports) -> list[str]:
    found = []
    for module, names in imports.items():
        for name in names - set(ANYWHERE):
            packages = {".".join(name.split(".")[:n]) for n in (1, 2)}
            found += [
                f"{module} imports {name}"
                for package in packages
                if package in NEVER
                or room_of(module) not in ONLY_IN.get(package, (room_of(module),))
            ]
    return found


def native_violations(tree: ast.AST, module: str) -> list[str]:
    """Uses of an extension other than a call of what is in it, outside of ``native``.

    So nothing can ask whether one is there: neither by ``compiled.native is None`` nor by its
    truth, by another name for it, nor by importing it.
    """
    if room_of(module) == "native":
        return []
    aliases, called, found = set[str](), set[int](), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "teravec.native":
            aliases |= {a.asname or a.name for a in node.names if a.name == "extensions"}
        if isinstance(node, ast.Attribute):
            called.add(id(node.value))
    for name in imported(tree):
        last = name.removeprefix("teravec.native.extensions.")
        if name.startswith("teravec.native._") or last in extensions.EXTENSIONS:
            found.append(f"{module} imports {name}")
    for node in ast.walk(tree):
        base = node
        if isinstance(node, ast.Attribute) and node.attr in extensions.EXTENSIONS:
            base = node.value
        if isinstance(base, ast.Name) and base.id in aliases and id(node) not in called:
            found.append(f"{module} asks in line {base.lineno} what is compiled")
    return found


def descriptor_violations(tree: ast.AST, module: str) -> list[str]:
    """Uses of file descriptors outside of ``storage`` and ``native``.

    A name of which ``fd`` is a word, a function of ``os`` that works on descriptors, and the
    descriptor of a file object. Other rooms open, read and write through ``storage``.
    """
    if room_of(module) in ("storage", "native"):
        return []
    found = []
    for node in ast.walk(tree):
        names: list[str | None] = []
        if isinstance(node, ast.Name):
            names = [node.id]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
            if isinstance(node.value, ast.Name) and node.value.id == "os":
                names += ["fd"] if node.attr in DESCRIPTOR_CALLS else []
        elif isinstance(node, ast.arg | ast.keyword):
            names = [node.arg]
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            names = ["fd" for alias in node.names if alias.name in DESCRIPTOR_CALLS]
        words = {word for name in names for word in (name or "").lower().split("_")}
        if words & {"fd", "fds", "fileno"}:
            line = getattr(node, "lineno", 0)
            found.append(f"{module} works on a descriptor in line {line}")
    return found


def cycle(imports: Imports) -> list[str]:
    """A cycle of imports, empty if there is none; a package follows what its __init__ imports."""
    graph = {module: own(imports, module) for module in imports}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def imports() -> Imports:
    found = read_imports(ROOT)
    assert {f"teravec.{room}" for room in (*SIDE_ROOMS, *STAGES)} <= set(found)
    assert "teravec.native.extensions" in own(found, "teravec.kernels.scans")
    return found


def test_layers(imports: Imports) -> None:
    assert layer_violations(imports) == []


def test_outside_packages_and_no_pickle(imports: Imports) -> None:
    assert outside_violations(imports) == []


def test_rooms_of_serving(imports: Imports) -> None:
    assert {serving_room(module) for module in imports} <= {"", *SERVING}
    assert serving_violations(imports) == []


def test_only_native_asks_what_is_compiled() -> None:
    found = []
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        found += native_violations(ast.parse(path.read_text(), str(path)), name)
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "if compiled.native is None: pass",
        "if None is not compiled.listing: pass",
        "x = 1 if compiled.paging else 2",
        "x = compiled.refining",
        "assert compiled.scanning",
        "x = getattr(compiled, 'native')",
        "from teravec.native.extensions import reading",
        "from teravec.native import _lists",
        "import teravec.native._scan",
        "from teravec.native._ring import Ring",
    ],
)
def test_native_violations_are_found(text: str) -> None:
    tree = ast.parse(f"from teravec.native import extensions as compiled\n{text}")
    assert len(native_violations(tree, "teravec.kernels.a")) == 1
    assert not native_violations(tree, "teravec.native.a")
    fine = (
        "from teravec.native import extensions as compiled\ncompiled.native.scores(compiled.level)"
    )
    assert not native_violations(ast.parse(fine), "teravec.kernels.a")


def test_descriptors_stay_in_storage() -> None:
    found = []
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        found += descriptor_violations(ast.parse(path.read_text(), str(path)), name)
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "def f(fd): pass",
        "file.fd",
        "self._direct_fds = None",
        "g(dir_fd=3)",
        "os.pread(number, 1, 0)",
        "os.open(path, os.O_RDONLY)",
        "from os import fstat",
        "file.fileno()",
        "for fd in (): pass",
    ],
)
def test_descriptor_violations_are_found(text: str) -> None:
    assert len(descriptor_violations(ast.parse(text), "teravec.search.a")) == 1
    assert not descriptor_violations(ast.parse(text), "teravec.storage.a")
    fine = "file.open(); path.read(); os.access(path, 4); offset = 'fd'; os.replace(a, b)"
    assert not descriptor_violations(ast.parse(fine), "teravec.search.a")


def test_no_cycle(imports: Imports) -> None:
    assert cycle(imports) == []


def test_serving_violations_are_found() -> None:
    assert serving_violations(
        parsed(serving__wire__a="import teravec.serving.server.b", serving__server__b="")
    )
    assert not serving_violations(
        parsed(serving__server__b="import teravec.serving.wire.a", serving__wire__a="")
    )


def parsed(**sources: str) -> Imports:
    rooms = (*STAGES, *SIDE_ROOMS, *BASICS, *TOP[:3])
    found = {"teravec": set[str](), **{f"teravec.{room}": set[str]() for room in rooms}}
    for name, text in sources.items():
        found["teravec." + name.replace("__", ".")] = set(imported(ast.parse(text)))
    return found


@pytest.mark.parametrize(
    "sources",
    [
        {"sources__a": "from teravec.training import x"},
        {"search__a": "def f():\n    import teravec.serving"},
        {"kernels__a": "from teravec.sources import x"},
        {"storage__a": "from teravec import sources"},
        {"errors": "import teravec.storage"},
        {"search__a": "from teravec.building import x"},
        {"index__a": "from teravec import api"},
        {"training__a": "import teravec.cli"},
        {"segments__a": "from teravec.training import x"},
        {"native__a": "from teravec.storage import x"},
        {"serving__a": "from teravec.evaluation import x"},
        {"training__a": "from teravec import build"},
        {"utils": ""},
    ],
)
def test_layer_violations_are_found(sources: dict[str, str]) -> None:
    assert len(layer_violations(parsed(**sources))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "import faiss",
        "from faiss.contrib import x",
        "import ray",
        "import torch",
        "import pyarrow.flight",
        "from pyarrow import flight",
        "import fastapi",
        "from http import server",
        "import pickle",
        "from marshal import dumps",
        "import importlib\nimportlib.import_module('faiss')",
        "if True:\n    import shelve",
    ],
)
def test_outside_violations_are_found(text: str) -> None:
    assert outside_violations(parsed(search__a=text))
    assert not outside_violations(
        parsed(
            kernels__a="import faiss",
            engines__a="import ray.data",
            serving__a="import pyarrow.flight, http.server",
            sources__a="import pyarrow.parquet",
        )
    )


def test_cycles_are_found() -> None:
    both = {"kernels__a": "from teravec.kernels import b", "kernels__b": "import teravec.kernels.a"}
    assert set(cycle(parsed(**both))) == {"teravec.kernels.a", "teravec.kernels.b"}
    inside = {"sources": "from teravec.sources.a import x", "sources__a": "import teravec.sources"}
    assert cycle(parsed(**inside))
    assert cycle(parsed(kernels__a="import teravec.errors", errors="import os")) == []
