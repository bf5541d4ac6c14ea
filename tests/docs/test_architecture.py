"""Packages import from their own layer or from layers below it, as the table in CONTRIBUTING.md has it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "libradet"
LAYERS = (
    ("__version__", "errors", "utils", "structures"),
    ("geometry", "balance"),
    ("data",),
    ("predictor",),
    ("models",),
    ("inference",),
    ("evaluation",),
    ("interop", "export"),
    ("engines",),
    ("training",),
    ("analysis",),
    ("api",),
    ("__init__",),
    ("experiments",),
    ("cli",),
    ("__main__",),
)
LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}
# Detector.predict is a shortcut for libradet.inference.predict, imported when it is called.
ALLOWED = {("models/detector.py", "inference")}


def part_of(path: Path) -> str:
    """The package or module directly below ``libradet``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> Iterator[str]:
    """Packages and modules directly below ``libradet`` that a file imports, lazily or not, but not for type checks."""
    tree = ast.parse(path.read_text())
    typing_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in typing_only and (node.module or "").startswith("libradet"):
            _, _, rest = node.module.partition(".")
            yield from [rest.partition(".")[0]] if rest else [alias.name for alias in node.names]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_goes_upwards(path):
    own, name = part_of(path), str(path.relative_to(PACKAGE))
    upward = [part for part in imported_parts(path) if LAYER_OF[part] > LAYER_OF[own] and (name, part) not in ALLOWED]
    assert not upward


def test_every_part_has_a_layer():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")}
    assert parts <= set(LAYER_OF)
