"""The tree's rules, read from the source: who imports whom, and what a file may be called and do."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import lngd
import lngd_bench

LIBRARY, BENCH = Path(lngd.__file__).parent, Path(lngd_bench.__file__).parent
ORDER = {
    LIBRARY: (
        *("version", "warned", "types", "ranges", "torch_private", "reference", "linalg", "layers", "sampling", "capture"),
        *("curvature", "step_size", "optimizer", "methods", "__init__", "doctor", "__main__"),
    ),
    BENCH: ("errors", "clock", "archive", "ledger", "tasks", "competitors", "training", "report", "studies", "cli", "__init__"),
}
"""Each module imports only from its left."""
COMMANDS = {"command.py", "show.py", "redraw.py"}
"""Of a study; they belong to the command line."""
LIBRARY_IMPORTS = {"torch", "jaxtyping", "lngd"} | set(sys.stdlib_module_names)
SAYS_NOTHING = {"utils", "util", "helpers", "common", "base", "misc", "core"}
FACTORISING = {"linalg", "cholesky", "cholesky_ex", "cholesky_inverse", "eigh", "svd", "qr", "inverse"}
POSITIONAL = 5
SHOWS_USERS_ERRORS = {"doctor.py", "of_diffusers.py", "of_timm.py", "of_transformers.py", "trial.py"}
"""They call a user's function or other people's models, which may raise anything."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def files(*roots: Path) -> list[Path]:
    return [path for root in roots or (LIBRARY, BENCH) for path in sorted(root.rglob("*.py"))]


def part_of(path: Path) -> str:
    """The name in ORDER that a file belongs to."""
    root = next(root for root in ORDER if path.is_relative_to(root))
    return "cli" if path.name in COMMANDS else path.relative_to(root).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_a_module_imports_only_from_its_left():
    wrong = []
    for root, order in ORDER.items():
        for path in files(root):
            own, inside = order.index(part_of(path)), f"{root.name}."
            for name in (name for name in imports(path) if name.startswith(inside)):
                used = "cli" if f"{name.split(chr(46))[-2]}.py" in COMMANDS else name.split(".")[1]
                if order.index(used if used in order else "__init__") > own:
                    wrong.append(f"{path.relative_to(root)} imports {name}")
    assert wrong == []


def test_the_library_needs_torch_and_jaxtyping_only():
    wrong = {path.name: used for path in files(LIBRARY) if (used := {n.split(".")[0] for n in imports(path)} - LIBRARY_IMPORTS)}
    assert wrong == {}
    used = {name.split(".")[0] for name in imports(LIBRARY / "reference.py")}
    assert used - set(sys.stdlib_module_names) == {"torch"}, "the reference stands on its own"


def test_a_file_is_named_by_its_idea_and_says_why_it_exists():
    assert [path for path in files() if path.stem in SAYS_NOTHING] == []
    empty = [path for path in files() if not tree(path).body]
    assert [path for path in empty if path.name != "__init__.py"] == []
    assert [path for path in files() if path not in empty and not ast.get_docstring(tree(path))] == []


def test_every_public_name_of_the_library_is_described():
    missing = [
        f"{path.name}: {node.name}"
        for path in files(LIBRARY)
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert missing == []


def test_a_function_takes_at_most_five_positional_arguments():
    many = [
        f"{path.name}: {node.name}"
        for path in files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and len([a for a in node.args.args if a.arg not in ("self", "cls")]) > POSITIONAL
    ]
    assert many == []


def test_no_error_is_swallowed():
    handlers = [(path, node) for path in files() for node in ast.walk(tree(path)) if isinstance(node, ast.ExceptHandler)]
    assert [path for path, node in handlers if node.type is None] == []
    broad = [
        path for path, node in handlers if isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
    ]
    assert {path.name for path in broad} == SHOWS_USERS_ERRORS


def test_only_the_linear_algebra_factorises_a_matrix():
    """And the reference, which stands on its own."""
    others = [path for path in files(LIBRARY) if part_of(path) not in ("linalg", "reference", "torch_private")]
    names = {path: {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)} for path in others}
    assert [path.name for path in others if FACTORISING & names[path]] == []
