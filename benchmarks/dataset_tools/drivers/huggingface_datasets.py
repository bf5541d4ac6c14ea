"""Hugging Face datasets: metadata files of an imagefolder, which must load as they were saved."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_DATASETS_OFFLINE"] = "1"

from common import copy_images, export, read_source
from datasets import Dataset, disable_progress_bars, load_dataset


def rows(as_list: bool) -> list[dict[str, Any]]:
    """Return a row for each image."""
    images, _ = read_source()
    result = []
    for image in images:
        names, boxes = [label for label, _ in image.objects], [box for _, box in image.objects]
        objects: Any = {"bbox": boxes, "categories": names}
        if as_list:
            objects = [{"bbox": box, "category": name} for box, name in zip(boxes, names, strict=True)]
        result.append({"file_name": image.name, "objects": objects})
    return result


def write(folder: Path, save: Callable[[Dataset, str], Any], suffix: str, as_list: bool = False) -> None:
    """Save the metadata beside the images and load the folder again."""
    copy_images(folder)
    save(Dataset.from_list(rows(as_list)), str(folder / f"metadata.{suffix}"))
    cache = folder.parent / "cache"
    loaded = load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(cache))["train"]
    shutil.rmtree(cache)
    if suffix != "csv" and list(loaded["objects"]) != [row["objects"] for row in rows(as_list)]:
        raise ValueError("the folder does not load as it was saved")


disable_progress_bars()
export(
    {
        "metadata.jsonl": partial(write, save=Dataset.to_json, suffix="jsonl"),
        "metadata.jsonl, list": partial(write, save=Dataset.to_json, suffix="jsonl", as_list=True),
        "metadata.csv": partial(write, save=partial(Dataset.to_csv, index=False), suffix="csv"),
    }
)
