"""``libradet data``: check, statistics, conversion and synthesis of datasets."""

import argparse
from pathlib import Path

from libradet.cli import options
from libradet.errors import UserError
from libradet.utils.atomic_io import write_json
from libradet.utils.text import counted


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the parsers of the sub-commands."""
    parser = commands.add_parser("data", help="check, convert and generate datasets")
    subcommands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check = subcommands.add_parser("check", help="validate a dataset before training")
    _add_dataset(check)
    check.set_defaults(run=run_check)
    stats = subcommands.add_parser("stats", help="statistics of images, boxes and classes")
    _add_dataset(stats)
    text = "image size in training (default: 800 1333)"
    stats.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=options.SIZE_METAVAR, help=text)
    stats.set_defaults(run=run_stats)
    _add_convert(subcommands.add_parser("convert", help="convert a dataset to COCO, YOLO or Pascal VOC"))
    _add_synthesize(subcommands.add_parser("synthesize", help="generate a synthetic dataset"))


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DIR", help=options.DATA_HELP)
    parser.add_argument("--split", help="only this split")
    options.add_skip_broken(parser)
    options.add_json(parser, "write the report as JSON")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="SOURCE", help=options.DATA_HELP)
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="new folder to write")
    parser.add_argument("--to", choices=("coco", "yolo", "voc"), required=True, help="format to write")
    parser.add_argument("--split", nargs="+", metavar="SPLIT", help="only these splits (default: all)")
    text = "copy image files, or hard-link them (default: copy)"
    parser.add_argument("--image_mode", choices=("copy", "link"), default="copy", help=text)
    parser.add_argument(
        "--masks",
        action="store_true",
        help="yolo: write polygons for objects that have one, and rectangles for the others in such an image",
    )
    text = "Pascal VOC source: its corners are pixels that count from 1, as data check notes"
    parser.add_argument("--voc_one_based", action="store_true", help=text)
    options.add_skip_broken(parser)
    parser.set_defaults(run=run_convert)


def _add_synthesize(parser: argparse.ArgumentParser) -> None:
    text = "folder for train.json, val.json and images/"
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help=text)
    parser.add_argument("--train", type=int, default=240, help="number of training images (default: 240)")
    parser.add_argument("--val", type=int, default=60, help="number of validation images (default: 60)")
    text = "image size in pixels (default: 320 256)"
    parser.add_argument("--size", type=int, nargs=2, default=(320, 256), metavar=("WIDTH", "HEIGHT"), help=text)
    parser.add_argument("--classes", type=int, default=5, help="number of classes, 1 to 8 (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    text = "Zipf exponent of class frequencies in the training split: class k in proportion to k^-S (default: 0)"
    parser.add_argument("--class_skew", type=float, default=0.0, metavar="S", help=text)
    text = "added distractors per object, which differ from a class by surface only and are not annotated (default: 0)"
    parser.add_argument("--hard_negatives", type=float, default=0.0, metavar="N", help=text)
    parser.set_defaults(run=run_synthesize)


def run_check(args: argparse.Namespace) -> int:
    """Validate a dataset; returns 2 if training could not start."""
    from libradet.data.read import check
    from libradet.utils.console import stdout_console

    report = check(args.data, args.split, skip_broken=args.skip_broken, decode=True)
    if args.json:
        write_json(args.json, report.to_json(), indent=1)
    if not report.readable:
        raise UserError("\n".join(report.errors))
    stdout_console().print(report.render(str(args.data)))
    return 2 if report.errors else 0


def run_stats(args: argparse.Namespace) -> int:
    """Print statistics of a dataset."""
    from libradet.data.read import read, splits
    from libradet.data.stats import compute_stats
    from libradet.utils.console import stdout_console

    by_split = {}
    for split in [args.split] if args.split else splits(args.data):
        dataset, _ = read(args.data, split, training=False, skip_broken=args.skip_broken, masks=False)
        stats = compute_stats(dataset, tuple(args.size))
        stdout_console().print(stats.render(f"{args.data}, {split}"))
        by_split[split] = stats.to_json()
    if args.json:
        write_json(args.json, by_split, indent=1)
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Convert a dataset to another format."""
    from libradet.data.convert import convert
    from libradet.utils.console import stdout_console

    result = convert(
        args.data,
        args.output_dir,
        args.to,
        splits=args.split,
        image_mode=args.image_mode,
        masks=args.masks,
        skip_broken=args.skip_broken,
        voc_one_based=args.voc_one_based,
    )
    stdout_console().print(result.report.render(str(args.data)))
    for text in result.unsupported:
        print(f"note: {text}")
    counts = ", ".join(f"{split} {count:,}" for split, count in result.splits.items())
    print(f"{args.output_dir}: {args.to}, images: {counts}")
    return 0


def run_synthesize(args: argparse.Namespace) -> int:
    """Generate a synthetic dataset."""
    from libradet.data.synthesis.synthetic import synthesize

    size = (args.size[0], args.size[1])
    synthesize(
        args.output_dir,
        train=args.train,
        val=args.val,
        size=size,
        classes=args.classes,
        seed=args.seed,
        class_skew=args.class_skew,
        hard_negatives=args.hard_negatives,
    )
    print(f"{args.output_dir}: {args.train} training and {counted(args.val, 'validation image')}")
    print(f"train on them: libradet train --data {args.output_dir}")
    return 0
