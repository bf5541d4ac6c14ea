"""What an exported file says of itself: text by name, for programs in any language."""

import json
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

import libradet
from libradet.data.loading.transforms import Size
from libradet.errors import UserError
from libradet.models.detector import Detector

FORMAT = "libradet exported detector, version 1"


@dataclass(frozen=True)
class Description:
    """Attributes:
    model: the zoo entry.
    class_names: of labels 0..C-1.
    category_ids: the training dataset's own ids of labels 0..C-1.
    size: (short, long) to which the detector wants images resized, or "original".
    resizes: whether the file does that itself.
    threshold: what scores less is not among its detections.
    masks: whether it gives masks.
    proposes: its detections are proposals.
    proposals: boxes of an image that it looks at, best first; 0 if it looks for objects itself.
    libradet: the version that wrote it.
    """

    model: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    size: Size
    resizes: bool
    threshold: float
    masks: bool
    proposes: bool
    proposals: int
    libradet: str

    @property
    def inputs(self) -> list[str]:
        """Names of what the file takes, in order."""
        return ["images", "proposals"] if self.proposals else ["images"]

    @property
    def outputs(self) -> list[str]:
        """Names of what it gives, in order."""
        return ["boxes", "scores", "labels", "valid"] + ["masks"] * self.masks


def describe(model: Detector, size: Size | None = None, resizes: bool = True) -> Description:
    """Of the file that ``model`` is going to be; ``size`` None: as trained. Raises UserError if it is no size."""
    if size is not None and size != "original" and not 0 < size[0] <= size[1]:
        raise UserError(f"size is {size[0]} {size[1]}: first the short side, at least 1, then the long one")
    return Description(
        model=model.name,
        class_names=tuple(model.class_names),
        category_ids=tuple(model.category_ids),
        size=size or model.image_size,
        resizes=resizes,
        threshold=model.config.detections.score,
        masks=model.config.mask is not None,
        proposes=model.proposes,
        proposals=model.proposals_wanted,
        libradet=libradet.__version__,
    )


def to_text(description: Description) -> dict[str, str]:
    """Names as they are, everything else as JSON."""
    values = {f.name: getattr(description, f.name) for f in fields(Description)}
    return {"format": FORMAT} | {f.name: _text(f, values[f.name]) for f in fields(Description)}


def from_text(texts: Mapping[str, str], path: str | Path) -> Description:
    """What :func:`to_text` wrote. Raises UserError if it did not write this."""
    if texts.get("format") != FORMAT:
        raise UserError(f"{path}: not a detector that libradet export wrote (it does not say so)")
    try:
        return Description(**{f.name: _value(f, texts[f.name]) for f in fields(Description)})
    except (KeyError, ValueError) as e:
        raise UserError(f"{path}: what libradet export says there about the detector is damaged ({e!r})") from e


def _text(field: Field, value: Any) -> str:
    return value if field.type is str else json.dumps(value, ensure_ascii=False)


def _value(field: Field, text: str) -> Any:
    value = text if field.type is str else json.loads(text)
    return tuple(value) if isinstance(value, list) else value
