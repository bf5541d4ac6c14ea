"""Suggestions for option names: those of other tools, abbreviations, parts and misspellings; values of options."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from libradet.utils.text import suggest

SYNONYMS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "base_lr": ("lr",),
    "lr0": ("lr",),
    "epochs": ("max_epochs",),
    "steps": ("max_steps",),
    "iterations": ("max_steps",),
    "batch": ("batch_size",),
    "bs": ("batch_size",),
    "flip": ("hflip_prob", "tta_flip"),
    "fliplr": ("hflip_prob", "tta_flip"),
    "augment": ("tta_flip", "hflip_prob"),
    "threshold": ("score_thresh",),
    "thresh": ("score_thresh",),
    "conf": ("score_thresh",),
    "conf_thres": ("score_thresh",),
    "confidence": ("score_thresh",),
    "score": ("score_thresh",),
    "iou": ("nms_thresh",),
    "nms": ("nms_thresh",),
    "imgsz": ("size", "image.size"),
    "img_size": ("size", "image.size"),
    "image_size": ("size", "image.size"),
    "workers": ("num_workers",),
    "gpus": ("devices", "device"),
    "gpu": ("devices", "device"),
    "amp": ("precision",),
    "fp16": ("precision",),
    "half": ("precision",),
    "bf16": ("precision",),
    "pretrained": ("weights",),
    "checkpoint": ("weights",),
    "load_from": ("weights",),
    "dataset": ("data",),
    "data_path": ("data",),
    "out": ("output_dir", "output"),
    "out_dir": ("output_dir", "output"),
    "work_dir": ("output_dir",),
    "save_dir": ("output_dir",),
    "project": ("output_dir",),
    "arch": ("model",),
    "warmup": ("warmup_steps",),
    "early_stopping": ("patience",),
    "wd": ("weight_decay",),
}
"""Names in other tools, and ours, of which the first that a command has is suggested."""


def suggest_option(name: str, known: Iterable[str]) -> str | None:
    """Return the known option that ``name`` most likely stands for, or None.

    Args:
        name: without leading dashes; dashes inside count as underscores.
        known: names, which may have sections separated by dots.
    """
    name, names = name.replace("-", "_").lower(), list(known)
    if name in names:
        return name
    for synonym in SYNONYMS.get(name, ()):
        same = [option for option in names if option == synonym or option.endswith(f".{synonym}")]
        if same:
            return min(same, key=_depth)
    completed = [option for option in names if len(name) > 1 and option.startswith(name)]
    if completed:
        return min(completed, key=_depth)
    return suggest(name, names)


def _depth(option: str) -> tuple[int, int, str]:
    return option.count("."), len(option), option


def last_value(words: Sequence[str], option: str) -> str | None:
    """Return the value of the last ``option VALUE`` or ``option=VALUE`` on a command line; None without any."""
    values = [after for word, after in pairwise([*words, ""]) if word == option]
    joined = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    return (joined or values or [None])[-1]
