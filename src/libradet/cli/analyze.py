"""``libradet analyze``: the imbalance report."""

import argparse
from pathlib import Path

from libradet.cli import options


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("analyze", help="report the training imbalance of a detector (HTML)")
    parser.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    parser.add_argument("--data", required=True, metavar="DIR", help=options.DATA_HELP)
    text = "folder for report.html, report.json and figures"
    parser.add_argument("--output_dir", type=Path, required=True, metavar="DIR", help=text)
    options.add_split(parser)
    text = "use at most N images, evenly spaced over the split (default: 200)"
    parser.add_argument("--max_images", type=int, default=200, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, help="random seed of the sampling (default: 0)")
    options.add_size(parser)
    options.add_batch_size(parser, default=2)
    options.add_device(parser)
    options.add_skip_broken(parser)
    options.add_proposals(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the imbalance report."""
    options.require_inputs(args.model, args.data, args.split)
    from libradet.analysis.analyze import HTML_FILE, analyze
    from libradet.analysis.collect import AnalysisOptions
    from libradet.interop.loading import load_checkpoint_any

    settings = AnalysisOptions(
        max_images=args.max_images, seed=args.seed, size=options.size_of(args), batch_size=args.batch_size
    )
    report = analyze(
        load_checkpoint_any(args.model, options.device_of(args)),
        args.data,
        args.output_dir,
        args.split,
        name=args.model,
        options=settings,
        proposals=args.proposals,
        skip_broken=args.skip_broken,
    )
    print(f"{report['diagnosis']['summary']}\n{args.output_dir / HTML_FILE}")
    return 0
