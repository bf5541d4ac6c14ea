"""``libradet export``: ONNX and torch.export files that run without libradet."""

import argparse
from pathlib import Path

from libradet.cli import options
from libradet.errors import UserError

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("export", help="export a trained detector to ONNX or torch.export (.pt2)")
    parser.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="file to write (.onnx or .pt2)")
    parser.add_argument("--format", choices=tuple(SUFFIXES), help="format (default: by the suffix of --output)")
    options.add_size(parser)
    text = "leave resizing out of the graph: images come resized, and the graph only pads them"
    parser.add_argument("--no_embed_preprocess", action="store_true", help=text)
    text = "file for BATCH images of HEIGHT x WIDTH pixels alone, with operators of fixed size that more runtimes have"
    parser.add_argument("--static", type=int, nargs=3, metavar=("BATCH", "HEIGHT", "WIDTH"), help=text)
    text = "images on which the exported file is compared with the model, in addition to synthetic ones"
    parser.add_argument("--verify_images", nargs="+", metavar="IMAGE|DIR|GLOB", help=text)
    text = "INT8 quantization (static, ONNX only); needs --calibration_images"
    parser.add_argument("--int8", action="store_true", help=text)
    options.add_calibration_images(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export a trained detector."""
    if args.format and args.output.suffix != SUFFIXES[args.format]:
        raise UserError(f"--output {args.output}: files of --format {args.format} end in {SUFFIXES[args.format]}")
    if args.output.suffix not in SUFFIXES.values():
        raise UserError(f"--output {args.output}: the name ends in .onnx (ONNX) or .pt2 (torch.export)")
    if args.int8 and not args.calibration_images:
        raise UserError("--int8 needs --calibration_images: some dozens of the training images")
    if args.calibration_images and not args.int8:
        raise UserError("--calibration_images needs --int8")
    options.require_inputs(args.model)
    from libradet.export.exporter import check_settings, export, summarize_export
    from libradet.interop.loading import load_checkpoint_any

    size, static = options.size_of(args), tuple(args.static) if args.static else None
    check_settings(args.output, size=size, static=static, calibrated=args.int8)
    options.require_images(args.verify_images, args.calibration_images)
    model = load_checkpoint_any(args.model)
    result = export(
        model,
        args.output,
        size=size,
        embed_preprocess=not args.no_embed_preprocess,
        static=static,
        verify_images=options.read_images(args.verify_images, model.bit_depth),
        calibration_images=options.read_calibration_images(args, model),
    )
    print(summarize_export(result))
    return 0
