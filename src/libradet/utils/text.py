"""Lists, counts and suggestions in messages."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import SupportsInt

MAX_ITEM_LENGTH = 300


def summarize_list(items: Sequence[object], limit: int = 5, empty: str = "") -> str:
    """Return the first ``limit`` items as text: ``a, b, c and 7 more``; ``empty`` if there are none."""
    if not items:
        return empty
    named = ", ".join(_shortened(item) for item in items[:limit])
    return named if len(items) <= limit else f"{named} and {len(items) - limit:,} more"


def counted(number: SupportsInt, one: str, many: str | None = None) -> str:
    """Return a number with its noun: ``1 image``, ``2 images``; ``many`` is the plural if it is not ``one`` and s."""
    return f"{int(number):,} {one if number == 1 else many or f'{one}s'}"


def suggest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to ``name``, or None if none is similar."""
    close = get_close_matches(name, list(known), n=1)
    return close[0] if close else None


def _shortened(item: object) -> str:
    text = str(item)
    return text if len(text) <= MAX_ITEM_LENGTH else f"{text[:MAX_ITEM_LENGTH]}..."
