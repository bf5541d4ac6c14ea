"""Reading of datasets in any supported format."""

from pathlib import Path

from libradet.data.bit_depth import describe_bit_depth
from libradet.data.formats.detect import choose_split, list_splits
from libradet.data.formats.reading import Splits
from libradet.data.records import Dataset, normalize_id
from libradet.data.validation.report import Report, merge
from libradet.data.validation.split import validate_split
from libradet.errors import UserError
from libradet.utils.arguments import check_arguments
from libradet.utils.text import counted, summarize_list


@check_arguments
def splits(data: Path | str) -> list[str]:
    """Return the names of the splits in a folder; ``["all"]`` is a single one that serves as any.

    Raises:
        UserError: ``data`` does not exist, or is in no supported format.
    """
    return list(list_splits(dataset_folder(data)))


def require_split(data: Path | str, split: str | None) -> None:
    """Raise UserError unless ``data`` is a dataset and has the split (any if None); for before slow steps."""
    available = list_splits(dataset_folder(data))
    if split is not None:
        choose_split(available, split, Path(data))


def dataset_folder(data: Path | str) -> Path:
    """Return the path of a dataset. Raises UserError for an empty name, which would be the working folder."""
    if not str(data):
        raise UserError("data is missing: name the folder of a dataset")
    return Path(data)


@check_arguments
def read(
    data: Path | str,
    split: str | None = None,
    *,
    strict: bool = True,
    training: bool = True,
    skip_broken: bool = False,
    masks: bool = True,
    decode: bool = False,
) -> tuple[Dataset, Report]:
    """Read and validate one split of a dataset in any supported format.

    Args:
        data: folder, or a JSON file in COCO format.
        split: "train", "val", ... or the dataset's own name ("valid", "train2017"); None for the training
            split, or the first there is.
        strict: raise the report's errors.
        training: a split without any box is an error; False makes it a warning (evaluation).
        skip_broken: skip images that are missing or damaged, instead of refusing the split.
        masks: keep segmentations (memory, on large datasets).
        decode: decode every image completely, to detect damage that headers do not reveal.

    Raises:
        UserError: the files cannot be read as a dataset; with ``strict``, also if training (or
            evaluation) is not possible with it.
    """
    data = dataset_folder(data)
    available = list_splits(data)
    raw = available[choose_split(available, split, data)]()
    dataset, report = validate_split(raw, training=training, skip_broken=skip_broken, masks=masks, decode=decode)
    if strict and report.errors:
        raise UserError("\n".join(report.errors))
    return dataset, report


@check_arguments
def check(data: Path | str, split: str | None = None, *, skip_broken: bool = False, decode: bool = False) -> Report:
    """Validate one split of a dataset, or all of them and whether they are consistent.

    What is wrong with the data is in the report. Training could start if ``report.errors`` is empty and
    ``report.purpose`` is "train"; a split other than that for training is checked for evaluation.
    """
    data = dataset_folder(data)
    datasets: list[Dataset] = []
    reports: dict[str, Report] = {}
    try:
        available = list_splits(data)
        trained, reason = _training_split(available, data)
        names = [choose_split(available, split, data)] if split else list(available)
        for name in names:
            training = name == trained
            dataset, reports[name] = read(
                data, name, strict=False, training=training, skip_broken=skip_broken, decode=decode
            )
            datasets.append(dataset)
    except UserError as error:
        return Report(errors=[str(error)], readable=False)
    report = merge(reports)
    compare_splits(datasets, report)
    if decode and (text := describe_bit_depth([image.path for dataset in datasets for image in dataset.images])):
        report.warnings.append(text)
    if trained not in names:
        report.purpose, report.purpose_reason = "evaluate", reason or f"split {names[0]}"
    return report


def _training_split(available: Splits, data: Path) -> tuple[str | None, str]:
    """Return the split that training reads, or why there is none."""
    try:
        return choose_split(available, "train", data), ""
    except UserError:
        return None, f"there is no split 'train', only {', '.join(available)}"


def compare_splits(datasets: list[Dataset], report: Report) -> None:
    """Add inconsistencies between the splits of a dataset to a report."""
    first, *others = datasets
    for other in others:
        names = dict(zip(map(normalize_id, first.category_ids), first.class_names, strict=True))
        conflicts = [
            f"{i} is {names[normalize_id(i)]!r} in {first.split}, {name!r} in {other.split}"
            for i, name in zip(other.category_ids, other.class_names, strict=True)
            if names.get(normalize_id(i), name) != name
        ]
        if conflicts:
            report.errors.append(f"splits disagree on their categories: {summarize_list(conflicts, 3)}.")
        new = [name for name in other.class_names if name not in first.class_names]
        if new and not conflicts:
            report.warnings.append(
                f"{other.split} has classes that {first.split} does not list ({summarize_list(new)})."
            )
        shared = {image.path for image in first.images} & {image.path for image in other.images}
        if shared:
            examples = summarize_list(sorted(path.name for path in shared))
            report.warnings.append(
                f"{counted(len(shared), 'image is', 'images are')} in {first.split} and in {other.split} ({examples})."
            )
