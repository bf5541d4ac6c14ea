"""Options and checks that several commands share."""

import argparse
from typing import NoReturn

from libradet.errors import UserError
from libradet.utils.atomic_io import require_exists

MODEL_HELP = "trained model: .safetensors, or a checkpoint of mmdetection, torchvision or detectron2"
ANY_MODEL_HELP = f"{MODEL_HELP}; or an exported .onnx or .pt2 file"
DATA_HELP = "dataset folder with images and annotations (COCO, YOLO or Pascal VOC)"
SIZE_METAVAR = ("MIN_SIZE", "MAX_SIZE")


class Parser(argparse.ArgumentParser):
    """Argument parser that raises :class:`UserError`, so that usage errors are one line like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message}; see {self.prog} --help")


def add_size(parser: argparse._ActionsContainer) -> None:
    """Add ``--size``."""
    text = "resize the shorter side to MIN_SIZE and the longer to at most MAX_SIZE (default: as in training)"
    parser.add_argument("--size", type=int, nargs=2, metavar=SIZE_METAVAR, help=text)


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add ``--split``."""
    parser.add_argument("--split", default="val", help="train, val, ... (default: val)")


def add_batch_size(parser: argparse.ArgumentParser, default: int) -> None:
    """Add ``--batch_size``."""
    parser.add_argument("--batch_size", type=int, default=default, help=f"images per batch (default: {default})")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")


def add_skip_broken(parser: argparse.ArgumentParser) -> None:
    """Add ``--skip_broken``."""
    parser.add_argument("--skip_broken", action="store_true", help="leave out missing and corrupt images")


def add_json(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--json``."""
    from pathlib import Path

    parser.add_argument("--json", type=Path, metavar="FILE", help=text)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add ``--precision`` and ``--compile``."""
    text = "auto selects bf16 where the processor supports it (default: fp32)"
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="fp32", help=text)
    text = "compile the model: needs minutes at the start, then runs faster"
    parser.add_argument("--compile", action="store_true", help=text)


def add_test_time_augmentation(parser: argparse.ArgumentParser) -> None:
    """Add ``--size`` or ``--tta_scales``, and ``--tta_flip``."""
    sizes = parser.add_mutually_exclusive_group()
    add_size(sizes)
    text = "test-time augmentation: predict at each of these sizes of the shorter side and merge the detections"
    sizes.add_argument("--tta_scales", type=int, nargs="+", default=(), metavar="MIN_SIZE", help=text)
    text = "test-time augmentation: predict on the mirrored image as well and merge the detections"
    parser.add_argument("--tta_flip", action="store_true", help=text)


def add_proposals(parser: argparse.ArgumentParser, metavar: str = "FILE|DIR") -> None:
    """Add ``--proposals``."""
    text = "precomputed proposals, for a detector without an RPN (Fast R-CNN)"
    parser.add_argument("--proposals", metavar=metavar, help=text)


def size_of(args: argparse.Namespace) -> tuple[int, int] | None:
    """Return ``--size`` as a pair, or None if it is absent."""
    return (args.size[0], args.size[1]) if args.size else None


def device_of(args: argparse.Namespace) -> str:
    """Return ``--device``, or the default device."""
    import torch

    return args.device or ("cuda" if torch.cuda.is_available() else "cpu")


def require_inputs(model: str | None = None, data: str | None = None) -> None:
    """Raise UserError if the model file or the dataset does not exist; called before slow imports."""
    if model:
        require_exists(model)
    if data:
        from libradet.data.read import splits

        splits(data)
