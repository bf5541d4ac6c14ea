"""Choice between the trained weights in a checkpoint and their exponential moving average (EMA)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

TRAINED_KEYS = ("state_dict", "model", "model_state_dict")
AVERAGED_KEYS = ("model_ema", "state_dict_ema", "ema_state_dict")
COUNTERS = ("n_averaged", "steps")
"""Buffers in which torch's and mmengine's averaged models count their updates."""

BUFFER_PREFIX = "ema_"


class StateChoice(NamedTuple):
    """Weights of a checkpoint.

    Attributes:
        state: by name; the whole content if the weights are at the top level.
        meta: metadata of the file; empty if the weights are at the top level.
        note: which of two sets of weights it is; empty if there is one.
    """

    state: Mapping[Any, Any]
    meta: Any
    note: str = ""


def choose_state(content: dict[str, Any], use_ema: bool | None) -> StateChoice:
    """Return the weights in a checkpoint's content.

    If there are two sets, the default is the one that the toolbox's own test command uses: the average in files of
    mmengine, whose ``state_dict`` is the average and ``ema_state_dict`` what was trained, and of torchvision's
    references, where torch's ``AveragedModel`` counts its updates; otherwise (timm) the trained weights.

    Args:
        use_ema: load the average (True) or the trained weights (False).
    """
    trained = next((key for key in TRAINED_KEYS if isinstance(content.get(key), dict)), None)
    averaged = next((key for key in AVERAGED_KEYS if isinstance(content.get(key), dict)), None)
    key = trained or averaged
    if key is None:
        return StateChoice(content, {})
    note = ""
    if trained is not None and averaged is not None:
        swapped = averaged == "ema_state_dict" and "mmengine_version" in _as_mapping(content.get("meta"))
        if swapped:
            trained, averaged = averaged, trained
        use_average = (swapped or "n_averaged" in content[averaged]) if use_ema is None else use_ema
        key, other = (averaged, trained) if use_average else (trained, averaged)
        note = _describe(f"{key!r}", f"{other!r}", use_average)
    state = content[key]
    if key in AVERAGED_KEYS:
        state = {name: value for name, value in state.items() if name not in COUNTERS}
    return StateChoice(state, content.get("meta", {}), note)


def split_ema_buffers(tensors: dict[str, Tensor], use_ema: bool | None) -> tuple[dict[str, Tensor], str]:
    """Return tensors without the copies that EMA hooks of mmcv 1 keep as buffers, and a note if there are any.

    The copy of ``backbone.conv1.weight`` is ``ema_backbone_conv1_weight``. When a checkpoint is written, the hook has
    swapped both: the copies are what was trained.

    Args:
        use_ema: False returns the copies under the names of the originals.
    """
    copies = {name: f"{BUFFER_PREFIX}{name.replace('.', '_')}" for name in tensors if "." in name}
    copies = {name: copy for name, copy in copies.items() if copy in tensors}
    if not copies:
        return tensors, ""
    buffers = set(copies.values())
    kept = {name: tensor for name, tensor in tensors.items() if name not in buffers}
    count = f"{len(copies)} copies {BUFFER_PREFIX}... of weights"
    if use_ema is False:
        kept |= {name: tensors[copy] for name, copy in copies.items()}
        return kept, f"its {count}, which are not averaged, were loaded in place of the averages"
    return kept, f"its {count}, which are not averaged, were left out; --no_ema (use_ema=False) loads them"


def _describe(key: str, other: str, is_average: bool) -> str:
    loaded, left_out = ("moving average", "trained weights") if is_average else ("trained weights", "moving average")
    option = "--no_ema (use_ema=False)" if is_average else "--use_ema (use_ema=True)"
    return f"its {key}, the {loaded}, was loaded; {option} loads {other}, the {left_out}"


def _as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
