"""Reports on ids that are unusual, and on those that cannot be used."""

from collections.abc import Sequence
from typing import Any

from libradet.data.records import RawAnnotations, describe_invalid_id, has_lost_digits, normalize_id
from libradet.data.validation.report import Report
from libradet.utils.text import summarize_list

_FIELDS = (("images", "id"), ("categories", "id"), ("annotations", "image_id"), ("annotations", "category_id"))


def report_ids(raw: RawAnnotations, report: Report) -> None:
    """Report ids that other tools may not read as this library does."""
    for part, key in _FIELDS:
        values = [record.get(key) for record in getattr(raw, part) if isinstance(record, dict)]
        texts = [value for value in values if type(value) is str]
        digits = [value for value in texts if type(normalize_id(value)) is int]
        if digits:
            report.notes.append(
                f"{key} is text such as {digits[0][:40]!r} in {len(digits)} of {part}: matches the same number; "
                "other tools may not accept text"
            )
        elif texts:
            report.notes.append(
                f"{key} is text such as {texts[0][:40]!r} in {len(texts)} of {part}; other tools may not accept text"
            )
        lost = [value for value in values if has_lost_digits(value)]
        if lost:
            report.warnings.append(
                f"{key} is a floating-point number that has lost digits in {len(lost)} of {part} ({lost[0]!r}): "
                "write ids as integers or text."
            )


def describe_unusable_ids(records: Sequence[tuple[str, Any]]) -> str:
    """Return why records cannot be used: no object, an invalid id, or no file name.

    Args:
        records: place and content of each record.
    """
    return summarize_list([f"{place} ({_describe(record)})" for place, record in records])


def _describe(record: Any) -> str:
    if not isinstance(record, dict):
        return "is not an object"
    value = record.get("id")
    if normalize_id(value) is not None:
        return "file_name is missing" if not record.get("file_name") else "file_name is not text"
    written = "" if value is None else f" {str(value)[:40]}"
    return f"id{written} {describe_invalid_id(value)}"
