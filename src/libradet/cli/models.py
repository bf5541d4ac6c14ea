"""``libradet models``: available detectors and backbones, and their parameters, GFLOPs and memory."""

import argparse

from libradet.cli.options import SIZE_METAVAR
from libradet.errors import UserError
from libradet.utils.text import counted

BACKBONE_HINT = (
    "--backbone: resnet18, resnet50, resnet101, resnext101_64x4d, or another timm model, also a "
    "plain ViT (list them: --backbones '*')"
)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    text = "list detectors and backbones, with parameters, GFLOPs and memory"
    parser = commands.add_parser("models", help=text, parents=[_stats_options()])
    content = parser.add_mutually_exclusive_group()
    text = "list timm's models that match a pattern, such as 'resnet*', and that detectors can be built on"
    content.add_argument("--backbones", metavar="PATTERN", help=text)
    text = "table of weights trained on COCO that can be used by name: origin, license, AP, and whether they are cached"
    content.add_argument("--weights", action="store_true", help=text)
    content.add_argument("--stats", action="store_true", help="table of parameters, GFLOPs and memory")
    parser.set_defaults(run=run)


def _stats_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    stats = parser.add_argument_group("options of --stats")
    stats.add_argument("--model", nargs="+", metavar="NAME", help="only these detectors")
    stats.add_argument("--backbone", default="resnet50", help="a timm model with features (default: resnet50)")
    text = "image size (default: 800 1333)"
    stats.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=SIZE_METAVAR, help=text)
    text = "number of classes without background (default: 80)"
    stats.add_argument("--num_classes", type=int, default=80, metavar="C", help=text)
    text = "training recomputes the backbone's activations in the backward pass"
    stats.add_argument("--activation_checkpointing", action="store_true", help=text)
    text = "stem, first stage and norm statistics are frozen, as with ImageNet weights"
    stats.add_argument("--freeze", action="store_true", help=text)
    stats.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default: fp32")
    stats.add_argument("--ema", action="store_true", help="training keeps an exponential moving average of weights")
    stats.add_argument("--batch_size", type=int, default=1, metavar="B", help="images per device (default: 1)")
    text = "device memory, such as 24G: also print the largest batch size that fits"
    stats.add_argument("--memory", metavar="SIZE", help=text)
    return parser


def run(args: argparse.Namespace) -> int:
    """List the model zoo, or print statistics of it."""
    if args.stats:
        return _print_stats(args)
    _refuse_stats_options(args)
    return _print_weights() if args.weights else _print_models(args.backbones)


def _refuse_stats_options(args: argparse.Namespace) -> None:
    defaults = vars(_stats_options().parse_args([]))
    if changed := [name for name, default in defaults.items() if getattr(args, name) != default]:
        raise UserError(f"--{changed[0]} is an option of the statistics: add --stats")


def _print_models(backbone_pattern: str | None) -> int:
    from libradet.models.zoo import MODELS

    backbones = _select_backbones(backbone_pattern) if backbone_pattern else []
    for name, make in MODELS.items():
        summary = (make.__doc__ or "").splitlines()[0]
        print(f"{name:22} {summary}")
    print(BACKBONE_HINT)
    if backbones:
        print(*backbones, sep="\n")
    return 0


def _select_backbones(pattern: str) -> list[str]:
    from libradet.models.backbone_list import list_backbones

    names = list_backbones(pattern)
    if not names:
        raise UserError(f"--backbones {pattern}: no timm model of such a name fits a detector; list all with '*'")
    return names


def _print_stats(args: argparse.Namespace) -> int:
    from libradet.models.profiling.model_stats import compute_zoo_stats
    from libradet.models.profiling.stats_table import parse_bytes, render_stats_table
    from libradet.utils.console import stdout_console

    limit = None if args.memory is None else parse_bytes(args.memory)
    if args.batch_size < 1:
        raise UserError(f"--batch_size is {args.batch_size}: it must be at least 1")
    stats = compute_zoo_stats(
        args.model,
        args.num_classes,
        args.backbone,
        (args.size[0], args.size[1]),
        bf16=args.precision == "bf16",
        activation_checkpointing=args.activation_checkpointing,
        freeze=args.freeze,
        ema=args.ema,
    )
    stdout_console().print(render_stats_table(stats, _title(args), args.batch_size, limit))
    return 0


def _print_weights() -> int:
    from libradet.interop.weights_cache import weights_table
    from libradet.utils.console import stdout_console

    stdout_console().print(weights_table().to_rich())
    return 0


def _title(args: argparse.Namespace) -> str:
    height, width = args.size
    parts = [
        args.backbone,
        counted(args.num_classes, "class", "classes"),
        f"{height} x {width} pixels",
        f"precision {args.precision}",
        f"batch size {args.batch_size}",
    ]
    if args.memory is not None:
        parts.append(f"{args.memory} of memory")
    if args.freeze:
        parts.append("stem and first stage frozen")
    if args.activation_checkpointing:
        parts.append("activation checkpointing")
    if args.ema:
        parts.append("EMA")
    return ", ".join(parts)
