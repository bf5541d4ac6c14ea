"""Join results of further runs on the same kind of processor into one."""

from dataclasses import fields, replace
from typing import Any

from benchmarks.budget import PARTS
from benchmarks.results import CaseResults, Results

SAME = ("processor", "cores", "threads", "instructions", "versions")


def join(stored: Results, further: Results) -> Results:
    """Return both; cases and parts that the further run has measured replace those of the stored one.

    Raises:
        ValueError: the runs are of different processors, instructions, threads or versions of libraries.
    """
    if differences := [key for key in SAME if stored.machine[key] != further.machine[key]]:
        raise ValueError(f"results of different runs cannot be joined: they differ in {', '.join(differences)}")
    new_cases = {case.case.name: case for case in further.cases if case.runs}
    old_cases = [case for case in stored.cases if case.case.name not in new_cases]
    new_parts = {part: getattr(further, part) for part in _parts() if getattr(further, part) is not None}
    weights = [f"weights of {c.case.shared_model}-{c.case.size[0]}x{c.case.size[1]}" for c in new_cases.values()]
    measured = [*new_cases, *new_parts, *weights]
    left_out = [name for name in stored.left_out if not _is_measured(name, measured, new_cases)]
    unavailable = {name: reason for name, reason in stored.unavailable.items() if name not in new_parts}
    return replace(
        stored,
        machine=_join_machines(stored.machine, further.machine),
        command=f"{stored.command}\n{further.command}",
        minutes=stored.minutes + further.minutes,
        left_out=list(dict.fromkeys([*left_out, *further.left_out])),
        unavailable=unavailable | further.unavailable,
        processes=[*stored.processes, *further.processes],
        cases=sorted([*old_cases, *new_cases.values()], key=lambda case: _position(stored, case.case.name)),
        **new_parts,
    )


def _is_measured(left_out: str, measured: list[str], new_cases: dict[str, CaseResults]) -> bool:
    """Return whether what was left out is measured now: a contender of a case, or all else of it."""
    case, _, turn = left_out.partition(": ")
    contender, _, turn_round = turn.partition(", round ")
    if turn_round and case in new_cases:
        return contender in new_cases[case].runs
    return any(name in left_out for name in measured)


def _parts() -> list[str]:
    return [field.name for field in fields(Results) if field.name in PARTS]


def _position(stored: Results, name: str) -> int:
    """Return the place of a case: that of the stored results, or after them."""
    names = [case.case.name for case in stored.cases]
    return names.index(name) if name in names else len(names)


def _join_machines(stored: dict[str, Any], further: dict[str, Any]) -> dict[str, Any]:
    commits = {
        name: _append(stored["commits"].get(name, ""), commit) for name, commit in further["commits"].items() if commit
    }
    return stored | {
        "date": _append(stored["date"], further["date"]),
        "load": max(stored["load"], further["load"]),
        "commits": stored["commits"] | commits,
    }


def _append(values: str, value: str) -> str:
    """Return a list as text with another value, once."""
    return value if not values else values if value in values.split(", ") else f"{values}, {value}"
