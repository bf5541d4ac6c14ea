"""``libradet predict``: detections in images and videos, or the proposals of a dataset."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from libradet.cli import options
from libradet.errors import UserError
from libradet.utils.text import counted

if TYPE_CHECKING:
    from libradet.predictor import Predictor


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("predict", help="detect objects in images and videos, and draw them")
    parser.add_argument("model", metavar="MODEL", help=options.ANY_MODEL_HELP)
    parser.add_argument("images", nargs="*", metavar="IMAGE|VIDEO|DIR|GLOB", help="input files")
    text = "folder for the rendered images, predictions.json and proposals (default: predictions)"
    parser.add_argument("--output_dir", type=Path, default=Path("predictions"), metavar="DIR", help=text)
    text = "dataset in place of images: write SPLIT.safetensors with the proposals of an RPN"
    parser.add_argument("--data", metavar="DIR", help=text)
    parser.add_argument("--split", help="only this split (default: all of --data)")
    options.add_batch_size(parser, default=4)
    options.add_precision(parser)
    options.add_engine(parser)
    options.add_runtime(parser)
    options.add_proposals(parser, metavar="FILE")
    parser.add_argument("--score_thresh", type=float, help="minimum score (default: 0.5)")
    options.add_test_time_augmentation(parser)
    options.add_tiles(parser)
    options.add_device(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write detections of images, or proposals of a dataset."""
    if bool(args.data) == bool(args.images):
        raise UserError("name either images or a dataset with --data; see libradet predict --help")
    if args.split and not args.data:
        raise UserError("--split needs --data")
    if args.score_thresh is not None and args.data:
        raise UserError("--score_thresh is for images: with --data, proposals of all scores are written; leave it out")
    options.require_inputs(args.model, args.data, args.split)
    options.check_engine(args)
    from libradet.api import load_model
    from libradet.engines.optimize import optimize_predictor
    from libradet.inference.predict import check_score_thresh
    from libradet.inference.proposals import check_predictor_proposals

    options.check_inference(args)
    options.require_images(args.images, args.calibration_images)
    if args.score_thresh is not None:
        check_score_thresh(args.score_thresh)
    loaded = load_model(args.model, options.device_of(args), runtime=args.runtime)
    engine = {"engine": args.engine, "calibration_images": options.read_calibration_images(args, loaded)}
    model = optimize_predictor(loaded, args.precision, args.compile, in_place=True, **engine)
    options.print_engine(model)
    if args.data:
        return _write_proposals(args, model)
    check_predictor_proposals(model, args.proposals)
    return _write_detections(args, model)


def _write_detections(args: argparse.Namespace, model: "Predictor") -> int:
    from libradet.inference.tiles import make_tiling
    from libradet.inference.tta import with_tta
    from libradet.inference.writers import format_summary, predict_files

    summary = predict_files(
        with_tta(model, args.tta_flip, args.tta_scales),
        args.images,
        args.output_dir,
        score_thresh=0.5 if args.score_thresh is None else args.score_thresh,
        size=options.size_of(args),
        batch_size=args.batch_size,
        proposals=args.proposals,
        tiling=make_tiling(model, args.tiles, args.tile_merge),
    )
    print(format_summary(summary, args.output_dir))
    return 0


def _write_proposals(args: argparse.Namespace, model: "Predictor") -> int:
    from libradet.data.read import read, splits
    from libradet.inference.proposals import check_is_proposal_model, check_predictor_proposals, write_dataset_proposals
    from libradet.inference.tiles import make_tiling
    from libradet.inference.tta import with_tta

    check_is_proposal_model(model)
    check_predictor_proposals(model, args.proposals)
    predictor = with_tta(model, args.tta_flip, args.tta_scales)
    settings = {"size": options.size_of(args), "batch_size": args.batch_size}
    settings["tiling"] = make_tiling(model, args.tiles, args.tile_merge)
    names = [args.split] if args.split else splits(args.data)
    # All of them before the first is written, so that a refused one leaves no files.
    datasets = [read(args.data, name, training=False, masks=False)[0] for name in names]
    for dataset in datasets:
        path = args.output_dir / f"{dataset.split}.safetensors"
        count = write_dataset_proposals(predictor, dataset, path, **settings)
        print(f"{path}: {counted(count, 'proposal')} in {counted(len(dataset), 'image')}")
    return 0
