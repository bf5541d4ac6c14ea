"""The command line: which commands there are, and what each can be told."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from libradet import commands
from libradet.errors import UserError

INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Complains in one line, like everything else."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0, 2 on bad input, or 128 + the signal that stopped it."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Names of files need not be text that a terminal can show.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(argv)
    except UserError as error:
        return _report(error)
    except KeyboardInterrupt:
        print("libradet: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(argv: list[str]) -> int:
    if argv[:1] == ["train"]:
        return commands.run_train(argv[1:])
    args = _parser().parse_args(argv)
    return args.run(args)


def _report(error: UserError) -> int:
    # Processes that stop together say so once, and must not look like failures to the one that started them.
    shared = getattr(error, "shared", False)
    if shared and os.environ.get("LOCAL_RANK", "0") != "0":
        return 0
    code = getattr(error, "exit_code", 2)
    print(f"libradet: {'error: ' if code == 2 else ''}{error}", file=sys.stderr)
    return code


def _parser() -> Parser:
    parser = Parser(prog="libradet", description="Train, measure and use object detectors with balanced learning.")
    parser.add_argument("--version", action="version", version=_version())
    kinds = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    kinds.add_parser("train", help="train a detector on your data (libradet train --help)", add_help=False)
    _add_evaluate(kinds.add_parser("evaluate", help="measure a trained detector with COCO's numbers"))
    _add_predict(kinds.add_parser("predict", help="draw what a trained detector finds in images"))
    _add_convert(kinds.add_parser("convert", help="take over a checkpoint of another toolbox, or write one"))
    _add_export(kinds.add_parser("export", help="write a trained detector as ONNX, or as a program of torch.export"))
    _add_analyze(kinds.add_parser("analyze", help="what a model's training is unbalanced in, as a page"))
    _add_reproduce(kinds.add_parser("reproduce", help="the paper's tables, figures and claims, on your data"))
    _add_data(kinds.add_parser("data", help="check, count or draw up datasets"))
    _add_models(kinds.add_parser("models", help="what --model and --backbone can be, and what it costs"))
    return parser


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="trained model: .safetensors, anybody's checkpoint, .onnx, .pt2")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with images and annotations")
    parser.add_argument("--split", default="val", help="train, val, … (default: val)")
    _add_views(parser)
    parser.add_argument("--batch_size", type=int, default=4, help="images at a time (default: 4)")
    parser.add_argument("--device", help="cpu, cuda, …; a GPU if there is one")
    _add_precision(parser)
    parser.add_argument("--skip_broken", action="store_true", help="leave out missing and damaged images")
    parser.add_argument("--proposals", metavar="FILE|DIR", help="of the images, for a model without rpn")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write detections as COCO results")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    parser.set_defaults(run=commands.run_evaluate)


def _add_views(parser: argparse.ArgumentParser) -> None:
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--size", type=int, nargs=2, metavar=("SHORT", "LONG"), help="resize to; as trained if not given"
    )
    text = "look at each of these sizes, and merge what is found"
    sizes.add_argument("--scales", type=int, nargs="+", default=(), metavar="SHORT", help=text)
    parser.add_argument("--flip", action="store_true", help="also look at mirrored images, and merge what is found")


def _add_precision(parser: argparse.ArgumentParser) -> None:
    text = "bf16 is faster where the processor has it, which auto asks (default: 32)"
    parser.add_argument("--precision", choices=("auto", "32", "bf16"), default="32", help=text)
    parser.add_argument("--compile", action="store_true", help="minutes of waiting first, faster then")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="trained model: .safetensors, anybody's checkpoint, .onnx, .pt2")
    parser.add_argument("images", nargs="*", metavar="IMAGE|VIDEO|DIR|GLOB", help="what to look at")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for drawings, predictions.json and proposals"
    )
    text = "dataset instead of images: write SPLIT.safetensors with the proposals of an rpn"
    parser.add_argument("--data", metavar="DIR", help=text)
    parser.add_argument("--split", help="only this one (default: all of --data)")
    parser.add_argument("--batch_size", type=int, default=4, help="images at a time (default: 4)")
    _add_precision(parser)
    parser.add_argument("--proposals", metavar="FILE", help="of the images, for a model without rpn")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score (default: 0.5)")
    _add_views(parser)
    parser.add_argument("--device", help="cpu, cuda, …; a GPU if there is one")
    parser.set_defaults(run=commands.run_predict)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FOREIGN", help="checkpoint of mmdetection, torchvision or detectron2")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write (.safetensors; with --to, .pth)")
    parser.add_argument("--to", choices=("mmdet", "torchvision"), help="write what that toolbox loads")
    parser.add_argument(
        "--allow-partial", "--allow_partial", action="store_true", help="what does not fit keeps random values"
    )
    text = "what batch norms add to variances, where the file does not say (torchvision's published weights: 0)"
    parser.add_argument("--norm-eps", type=float, metavar="E", help=text)
    parser.set_defaults(run=commands.run_convert)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="trained model: .safetensors, or anybody's checkpoint")
    parser.add_argument("--format", choices=("onnx", "torch"), help="kind of file (default: as --out ends)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write (.onnx or .pt2)")
    text = "resize to; as trained if not given"
    parser.add_argument("--size", type=int, nargs=2, metavar=("SHORT", "LONG"), help=text)
    text = "outside: images come resized, the file only pads them (default: inside)"
    parser.add_argument("--resize", choices=("inside", "outside"), default="inside", help=text)
    text = "on which file and model are compared, beside drawn ones"
    parser.add_argument("--images", nargs="+", metavar="IMAGE|DIR|GLOB", help=text)
    text = "compute in eight bits, with the ranges that layers have on these images; some dozen of training's do"
    parser.add_argument("--int8", nargs="+", metavar="IMAGE|DIR|GLOB", help=text)
    parser.set_defaults(run=commands.run_export)


def _add_analyze(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="trained model: .safetensors, or anybody's checkpoint")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with images and annotations")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for report.html, its numbers and figures"
    )
    parser.add_argument("--split", default="val", help="train, val, … (default: val)")
    text = "look at so many at most, spread evenly (default: 200)"
    parser.add_argument("--images", type=int, default=200, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, help="same seed, same numbers (default: 0)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("SHORT", "LONG"), help="resize to; as trained if not given"
    )
    parser.add_argument("--batch_size", type=int, default=2, help="images at a time (default: 2)")
    parser.add_argument("--device", help="cpu, cuda, …; a GPU if there is one")
    parser.add_argument("--skip_broken", action="store_true", help="leave out missing and damaged images")
    parser.add_argument("--proposals", metavar="FILE|DIR", help="of the images, for a model without rpn")
    parser.set_defaults(run=commands.run_analyze)


def _add_reproduce(parser: argparse.ArgumentParser) -> None:
    text = (
        "table1 … table6, libra, switches, bins, recipes, figure3, figure5, figure6, claims, verdict, or a .yaml file"
    )
    parser.add_argument("what", metavar="WHAT", help=text)
    parser.add_argument("--data", type=Path, required=True, nargs="+", metavar="DIR", help="datasets to train on")
    text = "small (two cores, under an hour a table), coco (the paper's protocol), or a .yaml file (default: small)"
    parser.add_argument("--preset", default="small", help=text)
    text = (
        "where backbones start: file, imagenet or none; else as the preset has it, which may look into DIR/../weights"
    )
    parser.add_argument("--weights", metavar="FILE", help=text)
    text = "one run for each (default: 0 1 2)"
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2), metavar="N", help=text)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/reproduce"), metavar="DIR", help="default: runs/reproduce"
    )
    text = "runs at a time; by the number of cores if the preset's runs take one each, else 1"
    parser.add_argument("--jobs", type=int, metavar="N", help=text)
    text = "setting of libradet train for all rows, such as epochs=3 or detector.roi.width=512"
    parser.add_argument("--set", nargs="+", default=(), metavar="KEY=VALUE", help=text)
    parser.set_defaults(run=commands.run_reproduce)


def _add_data(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in (("check", "whether training could start, and what was found"), ("stats", "what is in it")):
        command = kinds.add_parser(name, help=text)
        command.add_argument("data", metavar="DIR", help="folder with images and annotations")
        command.add_argument("--split", help="only this one")
        command.add_argument("--skip_broken", action="store_true", help="leave out missing and damaged images")
        command.add_argument("--json", type=Path, metavar="FILE", help="write it for machines")
        command.set_defaults(run=commands.run_check if name == "check" else commands.run_stats)
        if name == "stats":
            text = "as training would resize the images (default: 800 1333)"
            command.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("SHORT", "LONG"), help=text)
    _add_data_convert(kinds.add_parser("convert", help="write a dataset in another layout"))
    draw = kinds.add_parser("synthesize", help="draw a dataset with real difficulty")
    draw.add_argument("out", type=Path, metavar="DIR", help="where to write train.json, val.json and images/")
    draw.add_argument("--train", type=int, default=240, help="images to train on (default: 240)")
    draw.add_argument("--val", type=int, default=60, help="images to measure on (default: 60)")
    draw.add_argument("--size", type=int, nargs=2, default=(320, 256), metavar=("WIDTH", "HEIGHT"), help="of an image")
    draw.add_argument("--classes", type=int, default=5, help="kinds of objects, 1 to 8 (default: 5)")
    draw.add_argument("--seed", type=int, default=0, help="same seed, same images (default: 0)")
    draw.set_defaults(run=commands.run_synthesize)


def _add_data_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="SRC", help="dataset in any layout that is recognized")
    parser.add_argument("out", type=Path, metavar="DST", help="new folder to write")
    parser.add_argument("--to", choices=("coco", "yolo", "voc"), required=True, help="layout to write")
    parser.add_argument("--split", nargs="+", metavar="SPLIT", help="only these (default: all)")
    text = "copy them, or link them where that saves space (default: copy)"
    parser.add_argument("--images", choices=("copy", "link"), default="copy", help=text)
    parser.add_argument("--masks", action="store_true", help="yolo: polygons in place of boxes, where there are some")
    parser.add_argument("--skip_broken", action="store_true", help="leave out missing and damaged images")
    parser.set_defaults(run=commands.run_convert_data)


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backbones", metavar="PATTERN", help="also list timm's backbones that match, such as 'resnet*'"
    )
    cost = parser.add_argument_group("cost")
    cost.add_argument("--cost", action="store_true", help="table of parameters, GFLOPs and memory")
    cost.add_argument("--model", nargs="+", metavar="NAME", help="only these")
    cost.add_argument("--backbone", default="resnet50", help="any timm model with features (default: resnet50)")
    text = "image to resize to (default: 800 1333)"
    cost.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("SHORT", "LONG"), help=text)
    cost.add_argument("--num_classes", type=int, default=80, metavar="C", help="without background (default: 80)")
    cost.add_argument("--checkpointing", action="store_true", help="train with the backbone computed again")
    text = "train without stem, first stage and norm statistics, as from ImageNet weights"
    cost.add_argument("--frozen", action="store_true", help=text)
    cost.add_argument("--precision", choices=("32", "bf16"), default="32", help="compute in (default: 32)")
    cost.add_argument("--ema", action="store_true", help="train with a moving average of the weights")
    cost.add_argument("--batch_size", type=int, default=1, metavar="B", help="images per device (default: 1)")
    text = "of a device, such as 24G: also the most images per batch that fit into it"
    cost.add_argument("--memory", metavar="SIZE", help=text)
    parser.set_defaults(run=commands.run_models)


def _version() -> str:
    from libradet import __version__

    return f"libradet {__version__}"
