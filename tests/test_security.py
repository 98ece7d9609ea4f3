"""Nothing that the library reads can run code, read from the source: no unpickling, no shell, no evaluated text."""

import ast
from collections.abc import Iterator
from pathlib import Path

import lngd

FILES = sorted(Path(lngd.__file__).parent.rglob("*.py"))

UNPICKLING = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
HARMLESS = {"pickle.UnpicklingError"}
"""An exception class: `torch.load` raises it over a file that it refuses, and who calls it must be able to say so."""
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.hub.load", "torch.package.PackageImporter"),
    *(
        "yaml.load",
        "yaml.unsafe_load",
        "yaml.full_load",
        "pandas.read_pickle",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
    ),
}
UNPACKING = {"extractall", "extract", "unpack_archive"}
SUBPROCESS = {f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")}


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """What a name or an attribute stands for, such as `numpy.load` for `np.load`; empty where it is a value's method."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (stem := dotted(node.value, names)):
        return f"{stem}.{node.attr}"
    return ""


def imported(tree: ast.Module) -> dict[str, str]:
    """Local name → full name of everything that the file imports."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(a.asname or a.name.split(".")[0]): (a.name if a.asname else a.name.split(".")[0]) for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(a.asname or a.name): f"{node.module}.{a.name}" for a in node.names}
    return found


def imported_modules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{a.name}" for a in node.names)


def says(call: ast.Call, keyword: str, value: bool) -> bool:
    return any(k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is value for k in call.keywords)


def dangers(source: str) -> list[str]:
    """Every import and call of a file that breaks a rule."""
    tree = ast.parse(source)
    names = imported(tree)
    found = [name for name in imported_modules(tree) if name.split(".")[0] in UNPICKLING and name not in HARMLESS]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return found + [name for call in calls if (name := danger_of(call, dotted(call.func, names)))]


def danger_of(call: ast.Call, name: str) -> str:
    """The name of a call that breaks a rule, otherwise nothing."""
    method = call.func.attr if isinstance(call.func, ast.Attribute) else name.rpartition(".")[2]
    command = call.args[0] if call.args else None
    broken = (
        name in FORBIDDEN_CALLS,
        method in UNPACKING,
        name == "torch.load" and not says(call, "weights_only", True),
        name == "numpy.load"
        and any(k.arg in ("allow_pickle", None) for k in call.keywords)
        and not says(call, "allow_pickle", False),
        name in SUBPROCESS and not isinstance(command, ast.List | ast.Tuple),
        name in SUBPROCESS and any(k.arg in ("shell", None) for k in call.keywords),
    )
    return (name or method) if any(broken) else ""


FORBIDDEN = (
    "import pickle",
    "import os, marshal",
    "import dill as d",
    "from shelve import open",
    "from pickle import loads, UnpicklingError",
    "import torch\ntorch.load(f)",
    "import torch\ntorch.load(f, weights_only=False)",
    "import torch as t\nt.load(f, weights_only=safe)",
    "from torch import load\nload(f)",
    "import numpy as np\nnp.load(f, allow_pickle=True)",
    "import numpy as np\nnp.load(f, **options)",
    "import subprocess\nsubprocess.run(command, shell=True)",
    "import subprocess\nsubprocess.run(['sh'], shell=flag)",
    "import subprocess\nsubprocess.run('ls -l')",
    "from subprocess import Popen\nPopen(f'ls {x}')",
    "eval(text)",
    "def f():\n    exec(text)",
    "import os\nos.system('ls')",
    "from os import popen as run\nrun('ls')",
    "import yaml\nyaml.load(f)",
    "import tarfile\ntarfile.open(f).extractall()",
    "from shutil import unpack_archive\nunpack_archive(f)",
)
SAFE = (
    "from pickle import UnpicklingError",
    "import torch\ntorch.load(f, weights_only=True)\nmodel.eval()",
    "import numpy as np\nnp.load(f)\nnp.load(f, allow_pickle=False)",
    "import subprocess\nsubprocess.run(['ls', folder], check=True)",
)


def test_no_file_of_the_library_can_run_what_it_reads() -> None:
    assert {path.name: found for path in FILES if (found := dangers(path.read_text()))} == {}


def test_the_rules_see_what_they_forbid_and_nothing_else() -> None:
    assert [source for source in FORBIDDEN if len(dangers(source)) != 1] == []
    assert [source for source in SAFE if dangers(source)] == []
