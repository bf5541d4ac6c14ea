"""``libradet reproduce``: the paper's tables, figures and claims on your datasets."""

import argparse
from pathlib import Path

EXPERIMENTS = (
    "table1 ... table6, libra, components, sampler_bins, samplers, background, switches, balanced, classes, finetune, "
    "initialization, recipes, figure3, figure5, figure6, claims, verdict, or a .yaml file"
)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("reproduce", help="run the paper's tables, figures and claims on your datasets")
    parser.add_argument("experiment", metavar="EXPERIMENT", help=EXPERIMENTS)
    parser.add_argument("--data", type=Path, required=True, nargs="+", metavar="DIR", help="datasets to train on")
    text = (
        "small (two cores, some minutes per run), scratch (the same, from random weights), coco (the paper's "
        "protocol), or a .yaml file (default: small)"
    )
    parser.add_argument("--preset", default="small", help=text)
    text = "initial weights: a file, imagenet, coco, a name of models --weights, or none (default: as in the preset)"
    parser.add_argument("--weights", metavar="FILE", help=text)
    text = "random seeds, one run for each (default: 0 1 2)"
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2), metavar="N", help=text)
    text = "folder for runs and tables (default: runs/reproduce)"
    parser.add_argument("--output_dir", type=Path, default=Path("runs/reproduce"), metavar="DIR", help=text)
    text = "parallel runs (default: number of cores if the preset's runs use one core each, else 1)"
    parser.add_argument("--jobs", type=int, metavar="N", help=text)
    text = "training settings for all rows, such as max_epochs=3 or detector.roi.fc_dim=512"
    parser.add_argument("--set", nargs="+", default=(), metavar="KEY=VALUE", help=text)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run an experiment and print its tables."""
    from libradet.experiments.reproduce import ReproduceOptions, reproduce
    from libradet.utils.console import stdout_console

    options = ReproduceOptions(
        data=tuple(args.data),
        preset=args.preset,
        weights=args.weights,
        seeds=tuple(args.seeds),
        output_dir=args.output_dir,
        jobs=args.jobs,
        overrides=tuple(args.set),
    )
    console = stdout_console()
    for table in reproduce(args.experiment, options, console):
        console.print(table)
    return 0
