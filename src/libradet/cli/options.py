"""Options and checks that several commands share."""

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from libradet.errors import UserError
from libradet.interop.coco_weights import require_weights
from libradet.utils.option_names import suggest_option
from libradet.utils.text import suggest

if TYPE_CHECKING:
    import numpy as np

MODEL_HELP = (
    "trained model: .safetensors, a checkpoint of mmdetection, torchvision or detectron2, or a name of libradet models "
    "--weights"
)
ANY_MODEL_HELP = f"{MODEL_HELP}; or an exported .onnx or .pt2 file"
DATA_HELP = "dataset folder: COCO, YOLO, Pascal VOC, CVAT, Datumaro, labelme or imagefolder (docs/data.md)"
SIZE_METAVAR = ("MIN_SIZE", "MAX_SIZE")


class Parser(argparse.ArgumentParser):
    """Argument parser that raises :class:`UserError`, so that usage errors are one line like all others.

    Options have to be written in full. For unknown options and commands, the most similar one is suggested.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create a parser without abbreviated options."""
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments after checking that all options exist, so that this is reported before missing ones."""
        for word in args or ():
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                break
            name = word.split("=")[0]
            if name.startswith("--") and name not in self._option_string_actions:
                self._refuse_option(name)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{_in_words(message)}; see {self.prog} --help")

    def _refuse_option(self, name: str) -> NoReturn:
        known = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        similar = suggest_option(name[2:], known)
        hint = f"did you mean --{similar}?" if similar else f"see {self.prog} --help"
        raise UserError(f"there is no option {name}; {hint}")


def _in_words(message: str) -> str:
    """Return argparse's message on a wrong value or command without types of Python."""
    if number := re.match(r"argument (\S+): invalid (int|float) value: (.+)", message):
        kind = "a whole number" if number[2] == "int" else "a number"
        return f"{number[1]} is {number[3]}: it must be {kind}"
    if choice := re.match(r"argument (\S+): invalid choice: '(.*)' \(choose from (.+)\)", message):
        names = [name.strip("' ") for name in choice[3].split(",")]
        similar = suggest(choice[2], names)
        hint = f"did you mean {similar}?" if similar else f"choose from {', '.join(names)}"
        subject = f"there is no command {choice[2]}" if choice[1] == "COMMAND" else f"{choice[1]} is {choice[2]}"
        return f"{subject}: {hint}"
    return message


def add_size(parser: argparse._ActionsContainer) -> None:
    """Add ``--size``."""
    text = "resize the shorter side to MIN_SIZE and the longer to at most MAX_SIZE (default: as in training)"
    parser.add_argument("--size", type=int, nargs=2, metavar=SIZE_METAVAR, help=text)


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add ``--split``."""
    parser.add_argument("--split", default="val", help="train, val, ... (default: val)")


def add_batch_size(parser: argparse.ArgumentParser, default: int) -> None:
    """Add ``--batch_size``."""
    text = f"images or tiles per batch (default: {default})"
    parser.add_argument("--batch_size", type=int, default=default, help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Add ``--runtime``."""
    text = "what runs an .onnx file (default: onnxruntime)"
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino"), help=text)


def add_skip_broken(parser: argparse.ArgumentParser) -> None:
    """Add ``--skip_broken``."""
    parser.add_argument("--skip_broken", action="store_true", help="leave out missing and corrupt images")


def add_json(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--json``."""
    from pathlib import Path

    parser.add_argument("--json", type=Path, metavar="FILE", help=text)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add ``--precision`` and ``--compile``."""
    text = "auto selects bf16 where the processor supports it; int8 needs --engine packed and --calibration_images "
    text += "(default: fp32)"
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "int8"), default="fp32", help=text)
    add_calibration_images(parser)
    text = "compile the model: needs minutes at the start, then runs faster"
    parser.add_argument("--compile", action="store_true", help=text)


def add_calibration_images(parser: argparse.ArgumentParser) -> None:
    """Add ``--calibration_images``."""
    text = "images from which activation ranges are calibrated: some dozens of the training images"
    parser.add_argument("--calibration_images", nargs="+", metavar="IMAGE|DIR|GLOB", help=text)


def read_images(names: list[str] | None, bit_depth: int) -> "list[np.ndarray]":
    """Return images as uint8 RGB [H, W, 3]; none without names."""
    from libradet.inference.inputs import iter_inputs, list_image_files

    if not names:
        return []
    files = list_image_files(names)
    return [source.image.permute(1, 2, 0).numpy() for source in iter_inputs(files, bit_depth=bit_depth)]


def read_calibration_images(args: argparse.Namespace, model: Any) -> "list[np.ndarray]":
    """Return the images of ``--calibration_images``."""
    from libradet.predictor import bit_depth_of

    return read_images(args.calibration_images, bit_depth_of(model))


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add ``--engine``."""
    text = "what computes the convolutions of a detector; auto chooses by processor and packages (default: eager)"
    choices = ("eager", "packed", "compiled", "onnxruntime", "openvino", "auto")
    parser.add_argument("--engine", choices=choices, default="eager", help=text)


def check_engine(args: argparse.Namespace) -> None:
    """Raise UserError if ``--engine`` is combined with an exported file or with ``--compile``, or int8 lacks a part."""
    if args.precision == "int8" and not args.calibration_images:
        raise UserError("--precision int8 needs --calibration_images: some dozens of the training images")
    if args.calibration_images and args.precision != "int8":
        raise UserError("--calibration_images needs --precision int8")
    if args.precision == "int8" and args.engine not in ("packed", "auto"):
        raise UserError("--precision int8 needs --engine packed; for an exported file, see libradet export --int8")
    if args.engine == "eager":
        return
    if args.model.endswith((".onnx", ".pt2")):
        raise UserError(f"--engine runs a detector, and {args.model} is an exported file: leave --engine out")
    if args.compile:
        raise UserError("--compile is for the engine eager: leave out --compile or --engine")


def print_engine(model: Any) -> None:
    """Print which engine a model runs in, and how it differs from the detector, to stderr."""
    if report := getattr(model, "engine_report", None):
        print(report, file=sys.stderr)


def add_test_time_augmentation(parser: argparse.ArgumentParser) -> None:
    """Add ``--size`` or ``--tta_scales``, and ``--tta_flip``."""
    sizes = parser.add_mutually_exclusive_group()
    add_size(sizes)
    text = "test-time augmentation: predict at each of these sizes of the shorter side and merge the detections"
    sizes.add_argument("--tta_scales", type=int, nargs="+", default=(), metavar="MIN_SIZE", help=text)
    text = "test-time augmentation: predict on the mirrored image as well and merge the detections"
    parser.add_argument("--tta_flip", action="store_true", help=text)


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """Add ``--tiles`` and ``--tile_merge``."""
    text = "run on tiles of SIZE x SIZE pixels that overlap by a fraction, such as 640 0.2, and merge the detections"
    parser.add_argument("--tiles", type=float, nargs=2, metavar=("SIZE", "OVERLAP"), help=text)
    text = "how detections of several tiles are merged: class-wise NMS or weighted boxes fusion (default: nms)"
    parser.add_argument("--tile_merge", choices=("nms", "wbf"), default="nms", help=text)


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

    is_exported = args.model.endswith((".onnx", ".pt2"))
    if args.device is None and (is_exported or getattr(args, "engine", "") in ("onnxruntime", "openvino")):
        return "cpu"
    return args.device or ("cuda" if torch.cuda.is_available() else "cpu")


def require_inputs(model: str | None = None, data: str | None = None, split: str | None = None) -> None:
    """Raise UserError if the model, the dataset or its split does not exist; called before slow imports."""
    if model:
        require_weights(model)
    if data is not None:
        from libradet.data.read import require_split

        require_split(data, split)


def require_images(*sources: list[str] | None) -> None:
    """Raise UserError if images that are named do not exist; called before a model is loaded."""
    from libradet.inference.inputs import list_image_files

    for names in filter(None, sources):
        list_image_files(names)


def check_inference(args: argparse.Namespace) -> None:
    """Raise UserError for settings that no model could run with; called before one is loaded."""
    from libradet.inference.settings import check_settings

    check_settings(
        size=size_of(args),
        batch_size=args.batch_size,
        tta_scales=args.tta_scales,
        tiles=args.tiles,
        tile_merge=args.tile_merge,
    )
