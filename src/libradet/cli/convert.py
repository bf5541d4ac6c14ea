"""``libradet convert``: checkpoints of other toolboxes, in and out."""

import argparse
from pathlib import Path

from libradet.errors import UserError
from libradet.utils.atomic_io import require_exists
from libradet.utils.text import counted

SETTINGS_PLACES = {"mmdet": "the mmdet config", "torchvision": "the arguments of the torchvision model"}


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("convert", help="convert a checkpoint from or to another toolbox")
    text = "checkpoint of mmdetection, torchvision or detectron2; with --to, a libradet model"
    parser.add_argument("source", metavar="CHECKPOINT", help=text)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="file to write (.safetensors; with --to, .pth)")
    parser.add_argument("--to", choices=("mmdet", "torchvision"), help="toolbox to write a checkpoint for")
    text = "load the weights that fit; other layers stay randomly initialized"
    parser.add_argument("--allow_partial", action="store_true", help=text)
    text = "epsilon of the batch norms, if the file does not have it (torchvision's published weights: 0)"
    parser.add_argument("--norm_eps", type=float, metavar="EPS", help=text)
    text = "of two sets of weights, load the moving average (default: what the toolbox's own test command uses)"
    ema = parser.add_mutually_exclusive_group()
    ema.add_argument("--use_ema", action="store_true", default=None, help=text)
    text = "of two sets of weights, load what was trained, not its moving average"
    ema.add_argument("--no_ema", action="store_false", dest="use_ema", default=None, help=text)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert a checkpoint."""
    if args.norm_eps is not None and not 0 <= args.norm_eps < 1:
        raise UserError(f"--norm_eps is {args.norm_eps}: a small number such as 0 or 1e-5 is needed")
    require_exists(args.source)
    from libradet.interop.loading import load_checkpoint, summarize_mismatches
    from libradet.interop.saving import config_differences, save_checkpoint_as
    from libradet.models.serialization import save_model

    loaded = load_checkpoint(args.source, args.allow_partial, args.norm_eps, args.use_ema)
    if args.to:
        differences = config_differences(loaded.model, args.to)  # before anything is written
        save_checkpoint_as(loaded.model, args.to, args.output)
        for difference in differences:
            print(f"not stored in {args.to} checkpoints; set it in {SETTINGS_PLACES[args.to]}: {difference}")
    else:
        save_model(loaded.model, args.output)
    config = loaded.model.config
    classes = counted(config.num_classes, "class", "classes")
    print(f"{args.output}: {config.model}, {config.backbone.name}, {classes}, from {loaded.source}")
    for note in loaded.notes:
        print(f"{args.source}: {note}")
    if reinitialized := summarize_mismatches(loaded):
        print(f"randomly initialized: {reinitialized}")
    return 0
