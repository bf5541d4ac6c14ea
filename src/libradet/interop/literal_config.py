"""Configurations written as Python assignments (mmdetection's), parsed as literals and never executed."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any


def parse_literals(text: str) -> dict[str, Any]:
    """Return assigned values by name; {} if ``text`` is not Python.

    Values are made of literals, ``dict(...)`` and names assigned before; any other expression becomes None.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    values: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            values[statement.targets[0].id] = _value(statement.value, values)
    return values


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {k.arg: _value(k.value, known) for k in node.keywords if k.arg}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {key.value: _value(value, known) for key, value in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item, known) for item in node.elts]
    if isinstance(node, ast.Name):
        return known.get(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def without_modules(tree: Any) -> Any:
    """Return ``tree`` with the plain name of every ``type``.

    Configurations that import what they name are written with its module, ``mmcv.ops.nms``; others may name a registry,
    ``mmdet.RandomSampler``.
    """
    if isinstance(tree, dict):
        plain = {key: without_modules(value) for key, value in tree.items()}
        return plain | {"type": tree["type"].rpartition(".")[2]} if isinstance(tree.get("type"), str) else plain
    return [without_modules(item) for item in tree] if isinstance(tree, list) else tree


def iter_dicts(tree: Any, key: str) -> Iterator[dict[str, Any]]:
    """Yield the dictionaries in ``tree`` that have ``key``."""
    if isinstance(tree, dict):
        if tree.get(key) is not None:
            yield tree
        tree = list(tree.values())
    for item in tree if isinstance(tree, list) else []:
        yield from iter_dicts(item, key)


def first_dict(tree: Any, key: str) -> dict[str, Any]:
    """Return the first dictionary under ``key`` in ``tree``; {} if there is none."""
    value = next(iter_dicts(tree, key), {}).get(key)
    return value if isinstance(value, dict) else {}
