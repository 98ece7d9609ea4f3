"""The tree's rules, read from the source: who imports whom, and what a file may be called and do."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lngd

ROOT = Path(lngd.__file__).parent
ORDER = (
    "version",
    "types",
    "ranges",
    "torch_private",
    "reference",
    "linalg",
    "layers",
    "sampling",
    "capture",
    "curvature",
    "step_size",
    "distributed",
    "optimizer",
    "methods",
    "diagnostics",
    "bench",
    "cli",
)
"""Each module imports only from its left."""
CORE = ORDER[: ORDER.index("diagnostics")]
CORE_IMPORTS = {"torch", "numpy", "jaxtyping", "lngd"} | set(sys.stdlib_module_names)
SAYS_NOTHING = {"utils", "util", "helpers", "common", "base", "misc", "core"}
FACTORISING = {"linalg", "cholesky", "cholesky_ex", "cholesky_inverse", "eigh", "svd", "qr", "inverse"}
POSITIONAL = 5

FILES = sorted(path for path in ROOT.rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def module_of(path: Path) -> str:
    """The name in ORDER that a file belongs to; the package's own file stands right of the core."""
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@every_file
def test_every_file_has_a_place_in_the_order(path):
    assert module_of(path) in (*ORDER, "__init__")


@every_file
def test_a_module_imports_only_from_its_left(path):
    own = module_of(path)
    used = {name.split(".")[1] for name in imports(path) if name.startswith("lngd.")} & set(ORDER)
    if own == "__init__":
        assert used <= set(CORE)
    else:
        assert used <= set(ORDER[: ORDER.index(own) + 1])


@every_file
def test_the_core_needs_torch_numpy_and_jaxtyping_only(path):
    if module_of(path) in (*CORE, "__init__"):
        assert {name.split(".")[0] for name in imports(path)} <= CORE_IMPORTS


def test_the_reference_needs_nothing_but_torch():
    used = {name.split(".")[0] for name in imports(ROOT / "reference.py")}
    assert used - set(sys.stdlib_module_names) == {"torch"}


@every_file
def test_a_file_is_named_by_its_idea(path):
    assert path.stem not in SAYS_NOTHING


@every_file
def test_a_function_takes_at_most_five_positional_arguments(path):
    many = [f.name for f in functions(path) if len([a for a in f.args.args if a.arg not in ("self", "cls")]) > POSITIONAL]
    assert many == []


@every_file
def test_every_file_says_why_it_exists_and_the_core_what_each_name_is(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    assert [n.name for n in public if module_of(path) in CORE and not ast.get_docstring(n)] == []


@every_file
def test_no_error_is_swallowed(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "a bare except"
            assert not (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))


def test_only_the_linear_algebra_factorises_a_matrix():
    """And the reference, which stands on its own."""
    core = [path for path in FILES if module_of(path) in CORE and module_of(path) not in ("linalg", "reference")]
    assert {path.name for path in core if FACTORISING & set(attributes(path))} == set()


def attributes(path: Path) -> Iterator[str]:
    """Every name behind a dot."""
    yield from (node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
