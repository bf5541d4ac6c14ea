"""The code, its messages and the docs use the field's words (CONTRIBUTING.md, Glossary), in US spelling."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "libradet").rglob("*.py"))
TEMPLATES = sorted(p for p in (ROOT / "src" / "libradet").rglob("*") if p.suffix in {".j2", ".yaml"})
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
]

SPELLING = (
    r"pictur\w*|\w*colour\w*|\w*(normalis|optimis|localis|recognis|synchronis|initialis|quantis|summaris|visualis)"
    r"(e|ed|er|ers|es|ing|ation|ations)|centre\w*|neighbour\w*|behaviour\w*|labelled|data sets?"
)
METAPHORS = (
    r"houses?|rooms?|roads?|looks?|looked|looking|sees|seen|finds?|found|gives?|gave|given|giving|"
    r"takes?|took|taken|told|judges?|judged|loud\w*|hear|hears|heard|listen\w*|surviv\w*"
)
IDIOMS = r"anybod\w*|nobod\w*|everybod\w*|anew|mend(s|ed|ing)?|shall|so many|goes? on|at once or not at all"
WORDS = re.compile(rf"\b({SPELLING}|{METAPHORS}|{IDIOMS})\b", re.IGNORECASE)
NAMES = re.compile(rf"({SPELLING}|{METAPHORS}|see|floors?)", re.IGNORECASE)

# Names of other projects that contain such a word: keys of mmdetection's configurations, methods of pickle.
FOREIGN = {"floor_thr", "floor_fraction", "find_class"}
# A message of jsonargparse that is parsed.
FOREIGN_TEXTS = {"Given value: (.+)"}
CODE = re.compile(r"```.*?```|`[^`]*`|<!--.*?-->|\]\([^)]*\)|https?://\S+", re.DOTALL)


def parts(name: str) -> list[str]:
    """The words in an identifier."""
    return [part for piece in name.split("_") for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", piece)]


def defined_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Functions, classes, parameters, variables and attributes that a module defines."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, line
        elif isinstance(node, ast.arg):
            yield node.arg, line
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, line
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, line
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, line


def texts(source: str) -> Iterator[tuple[str, int]]:
    """Strings, docstrings and comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield re.sub(r"``[^`]*``|`[^`]*`", "", node.value), node.lineno
    for number, line in enumerate(source.splitlines(), 1):
        if comment := re.search(r"(?:^|\s)#\s.*$", line):
            yield comment[0], number


def name_of(path: Path) -> str:
    """The path in the repository."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_names(path):
    odd = [
        f"{line}: {name}"
        for name, line in [(path.stem, 0), *defined_names(ast.parse(path.read_text()))]
        if name not in FOREIGN and any(NAMES.fullmatch(part) for part in parts(name))
    ]
    assert not odd


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_messages_docstrings_and_comments(path):
    odd = [
        f"{line}: {word[0]}"
        for text, line in texts(path.read_text())
        if text not in FOREIGN_TEXTS
        for word in WORDS.finditer(text)
    ]
    assert not odd


@pytest.mark.parametrize("path", [*PAGES, *TEMPLATES], ids=name_of)
def test_pages(path):
    text = CODE.sub(lambda code: "\n" * code[0].count("\n"), path.read_text())
    odd = [f"{number}: {word[0]}" for number, line in enumerate(text.splitlines(), 1) for word in WORDS.finditer(line)]
    assert not odd


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_docstrings_begin_with_an_imperative_or_a_noun(path):
    nodes = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    first_lines = [(ast.get_docstring(node) or "").split("\n")[0] for node in nodes]
    assert not [line for line in first_lines if re.match(r"(What|How|Which|Where|Who)\b", line)]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_are_short(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f.name: f.end_lineno - f.lineno + 1 - len((ast.get_docstring(f) or "").splitlines()) for f in functions}
    assert not {name: length for name, length in lengths.items() if length > 60}


def test_glossary_names_the_words():
    glossary = (ROOT / "CONTRIBUTING.md").read_text().partition("## Glossary")[2]
    assert all(word in glossary for word in ("image", "detections", "ground truth", "proposals", "anchor"))
