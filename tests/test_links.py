"""The pages: what they point to exists, and the README's table of ideas names what stands there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *(page for folder in ("docs", "results") for page in sorted((ROOT / folder).rglob("*.md"))),
]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
IDEA = re.compile(
    r"^\| (?P<idea>.+?) \| \[`(?P<file>[^`]+)`\]\(src/lngd/(?P<path>[^)]+)\), (?P<names>.+?)(?:;.*)? \|$", re.MULTILINE
)
IDEAS = ("Φ and Ψ", "d = ", "layer-wise g", "λ", "eq. 14", "α_l", "dᵀFd", "momentum", "THOR")


def test_every_link_to_a_file_leads_to_one():
    links = [(page, target) for page in PAGES for target in LINK.findall(page.read_text())]
    files = [(page, target) for page, target in links if "://" not in target and not target.startswith("mailto:")]
    assert [f"{page.relative_to(ROOT)}: {target}" for page, target in files if not (page.parent / target).exists()] == []


def test_each_idea_of_the_paper_is_found_in_the_readme_by_the_name_of_its_function():
    rows = list(IDEA.finditer((ROOT / "README.md").read_text()))
    assert [idea for idea in IDEAS if not any(idea in row["idea"] for row in rows)] == []
    for row in rows:
        path = ROOT / "src" / "lngd" / row["path"]
        assert row["path"] == row["file"]
        nodes = ast.walk(ast.parse(path.read_text()))
        defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert set(re.findall(r"`(\w+)`", row["names"])) <= defined, row["idea"]


def test_the_map_in_contributing_has_a_line_for_each_file_of_the_core():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    files = {path.name for path in (ROOT / "src" / "lngd").rglob("*.py") if path.name != "__init__.py"}
    assert [name for name in sorted(files) if not re.search(rf"─ {re.escape(name)} +\S", page)] == []
