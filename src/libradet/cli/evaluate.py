"""``libradet evaluate``: COCO metrics of a trained detector."""

import argparse
from pathlib import Path

from libradet.cli import options
from libradet.utils.atomic_io import require_writable, write_json


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("evaluate", help="compute COCO metrics of a trained detector")
    parser.add_argument("model", metavar="MODEL", help=options.ANY_MODEL_HELP)
    parser.add_argument("--data", required=True, metavar="DIR", help=options.DATA_HELP)
    options.add_split(parser)
    options.add_test_time_augmentation(parser)
    options.add_tiles(parser)
    options.add_batch_size(parser, default=4)
    options.add_device(parser)
    options.add_precision(parser)
    options.add_engine(parser)
    options.add_runtime(parser)
    options.add_skip_broken(parser)
    options.add_proposals(parser)
    parser.add_argument("--coco_results", type=Path, metavar="FILE", help="write the detections as COCO results")
    options.add_json(parser, "write the metrics as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate a trained detector."""
    options.require_inputs(args.model, args.data, args.split)
    options.check_engine(args)
    if args.json:
        require_writable(args.json)
    from libradet.api import evaluate, load_model
    from libradet.evaluation.tables import print_metrics

    options.check_inference(args)
    options.require_images(args.calibration_images)
    if args.coco_results:
        require_writable(args.coco_results)
    model = load_model(args.model, options.device_of(args), runtime=args.runtime)
    metrics = evaluate(
        model,
        args.data,
        args.split,
        skip_broken=args.skip_broken,
        size=options.size_of(args),
        batch_size=args.batch_size,
        precision=args.precision,
        compile=args.compile,
        engine=args.engine,
        calibration_images=options.read_calibration_images(args, model),
        coco_results=args.coco_results,
        proposals=args.proposals,
        tta_flip=args.tta_flip,
        tta_scales=args.tta_scales,
        tiles=args.tiles,
        tile_merge=args.tile_merge,
    )
    print_metrics(metrics, f"{args.model} on {args.split} of {args.data}")
    if args.json:
        write_json(args.json, metrics, indent=1)
    return 0
