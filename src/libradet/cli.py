"""The commands; what they do is done elsewhere."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from libradet.errors import UserError
from libradet.files import write_json

if TYPE_CHECKING:
    from libradet.models.detector import Detector

INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Complains in one line, like everything else."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0, 2 on bad input, or 128 + the signal that stopped it."""
    argv = list(sys.argv[1:] if argv is None else argv)
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
        return _train(argv[1:])
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
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    commands.add_parser("train", help="train a detector on your data (libradet train --help)", add_help=False)
    _add_evaluate(commands.add_parser("evaluate", help="measure a trained detector with COCO's numbers"))
    _add_predict(commands.add_parser("predict", help="draw what a trained detector finds in pictures"))
    _add_convert(commands.add_parser("convert", help="take over a checkpoint of another toolbox, or write one"))
    _add_analyze(commands.add_parser("analyze", help="what a model's training is unbalanced in, as a page"))
    _add_data(commands.add_parser("data", help="check, count or draw up data sets"))
    _add_models(commands.add_parser("models", help="what --model and --backbone can be, and what it costs"))
    return parser


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="trained model: .safetensors, or anybody's checkpoint")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with pictures and annotations")
    parser.add_argument("--split", default="val", help="train, val, … (default: val)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("SHORT", "LONG"), help="resize to; as trained if not given"
    )
    parser.add_argument("--batch_size", type=int, default=4, help="pictures at a time (default: 4)")
    parser.add_argument("--device", help="cpu, cuda, …; a GPU if there is one")
    parser.add_argument("--skip_broken", action="store_true", help="leave out missing and damaged pictures")
    parser.add_argument("--proposals", metavar="FILE|DIR", help="of the pictures, for a model without rpn")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write detections as COCO results")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    parser.set_defaults(run=_evaluate)


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="trained model: .safetensors, or anybody's checkpoint")
    parser.add_argument("pictures", nargs="*", metavar="PICTURE|DIR|GLOB", help="what to look at")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for drawings, predictions.json and proposals"
    )
    text = "data set instead of pictures: write SPLIT.safetensors with the proposals of an rpn"
    parser.add_argument("--data", metavar="DIR", help=text)
    parser.add_argument("--split", help="only this one (default: all of --data)")
    parser.add_argument("--batch_size", type=int, default=4, help="pictures of --data at a time (default: 4)")
    parser.add_argument("--proposals", metavar="FILE", help="of the pictures, for a model without rpn")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score (default: 0.5)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("SHORT", "LONG"), help="resize to; as trained if not given"
    )
    parser.add_argument("--device", help="cpu, cuda, …; a GPU if there is one")
    parser.set_defaults(run=_predict)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FOREIGN", help="checkpoint of mmdetection, torchvision or detectron2")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write (.safetensors; with --to, .pth)")
    parser.add_argument("--to", choices=("mmdet", "torchvision"), help="write what that toolbox loads")
    parser.add_argument(
        "--allow-partial", "--allow_partial", action="store_true", help="what does not fit keeps random values"
    )
    text = "what batch norms add to variances, where the file does not say (torchvision's published weights: 0)"
    parser.add_argument("--norm-eps", type=float, metavar="E", help=text)
    parser.set_defaults(run=_convert)


def _add_analyze(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="trained model: .safetensors, or anybody's checkpoint")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with pictures and annotations")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for report.html, its numbers and figures"
    )
    parser.add_argument("--split", default="val", help="train, val, … (default: val)")
    text = "look at so many at most, spread evenly (default: 200)"
    parser.add_argument("--pictures", type=int, default=200, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, help="same seed, same numbers (default: 0)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("SHORT", "LONG"), help="resize to; as trained if not given"
    )
    parser.add_argument("--batch_size", type=int, default=2, help="pictures at a time (default: 2)")
    parser.add_argument("--device", help="cpu, cuda, …; a GPU if there is one")
    parser.add_argument("--skip_broken", action="store_true", help="leave out missing and damaged pictures")
    parser.add_argument("--proposals", metavar="FILE|DIR", help="of the pictures, for a model without rpn")
    parser.set_defaults(run=_analyze)


def _add_data(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in (("check", "whether training could start, and what was found"), ("stats", "what is in it")):
        command = commands.add_parser(name, help=text)
        command.add_argument("data", metavar="DIR", help="folder with pictures and annotations")
        command.add_argument("--split", help="only this one")
        command.add_argument("--skip_broken", action="store_true", help="leave out missing and damaged pictures")
        command.add_argument("--json", type=Path, metavar="FILE", help="write it for machines")
        command.set_defaults(run=_check if name == "check" else _stats)
        if name == "stats":
            text = "as training would resize the pictures (default: 800 1333)"
            command.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("SHORT", "LONG"), help=text)
    draw = commands.add_parser("synthesize", help="draw a data set with real difficulty")
    draw.add_argument("out", type=Path, metavar="DIR", help="where to write train.json, val.json and images/")
    draw.add_argument("--train", type=int, default=240, help="pictures to train on (default: 240)")
    draw.add_argument("--val", type=int, default=60, help="pictures to measure on (default: 60)")
    draw.add_argument("--size", type=int, nargs=2, default=(320, 256), metavar=("WIDTH", "HEIGHT"), help="of a picture")
    draw.add_argument("--classes", type=int, default=5, help="kinds of objects, 1 to 8 (default: 5)")
    draw.add_argument("--seed", type=int, default=0, help="same seed, same pictures (default: 0)")
    draw.set_defaults(run=_synthesize)


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backbones", metavar="PATTERN", help="also list timm's backbones that match, such as 'resnet*'"
    )
    cost = parser.add_argument_group("cost")
    cost.add_argument("--cost", action="store_true", help="table of parameters, GFLOPs and memory")
    cost.add_argument("--model", nargs="+", metavar="NAME", help="only these")
    cost.add_argument("--backbone", default="resnet50", help="any timm model with features (default: resnet50)")
    text = "picture to resize to (default: 800 1333)"
    cost.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("SHORT", "LONG"), help=text)
    cost.add_argument("--num_classes", type=int, default=80, metavar="C", help="without background (default: 80)")
    cost.add_argument("--checkpointing", action="store_true", help="train with the backbone computed again")
    text = "train without stem, first stage and norm statistics, as from ImageNet weights"
    cost.add_argument("--frozen", action="store_true", help=text)
    parser.set_defaults(run=_models)


def _train(argv: list[str]) -> int:
    from libradet.train_options import parse_train

    request = parse_train(argv)
    from libradet.training.run import train

    train(request.config, request.detector, request.resume)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from libradet.api import evaluate, load_model
    from libradet.evaluation.tables import show

    size = tuple(args.size) if args.size else None
    metrics = evaluate(
        load_model(args.model, _device(args.device)),
        args.data,
        args.split,
        skip_broken=args.skip_broken,
        size=size,
        batch_size=args.batch_size,
        results=args.results,
        proposals=args.proposals,
    )
    show(metrics, f"{args.model} on {args.split} of {args.data}")
    if args.json:
        write_json(args.json, metrics, indent=1)
    return 0


def _predict(args: argparse.Namespace) -> int:
    from libradet.api import load_model
    from libradet.inference.picture_files import describe, predict_files

    if bool(args.data) == bool(args.pictures):
        raise UserError("name either pictures or a data set with --data; see libradet predict --help")
    if args.split and not args.data:
        raise UserError("--split is one of --data, which is missing")
    size = tuple(args.size) if args.size else None
    model = load_model(args.model, _device(args.device))
    if args.data:
        return _propose(args, model, size)
    done = predict_files(model, args.pictures, args.out, threshold=args.threshold, size=size, proposals=args.proposals)
    print(describe(done, args.out))
    return 0


def _propose(args: argparse.Namespace, model: "Detector", size: tuple[int, int] | None) -> int:
    from libradet.data.read import read, splits
    from libradet.evaluation.proposing import check_proposing, propose
    from libradet.models.proposal_needs import check_proposals

    check_proposing(model)
    check_proposals(model.config, args.proposals)
    for split in [args.split] if args.split else splits(args.data):
        dataset, _ = read(args.data, split, training=False, masks=False)
        path = args.out / f"{dataset.split}.safetensors"
        count = propose(model, dataset, path, size=size, batch_size=args.batch_size)
        print(f"{path}: {count} proposals in {len(dataset)} pictures")
    return 0


def _convert(args: argparse.Namespace) -> int:
    from libradet.interop.loading import explain, load_checkpoint
    from libradet.interop.saving import differences, save_as
    from libradet.models.model_file import save_model

    if args.norm_eps is not None and not 0 <= args.norm_eps < 1:
        raise UserError(f"--norm-eps is {args.norm_eps}: a small number such as 0 or 1e-5")
    loaded = load_checkpoint(args.source, args.allow_partial, args.norm_eps)
    if args.to:
        save_as(loaded.model, args.to, args.out)
        for difference in differences(loaded.model, args.to):
            print(f"not in a file of {args.to}, set it there: {difference}")
    else:
        save_model(loaded.model, args.out)
    config = loaded.model.config
    print(f"{args.out}: {config.model}, {config.backbone.name}, {config.num_classes} classes, from {loaded.family}")
    if left := explain(loaded):
        print(f"left as it was made, at random: {left}")
    return 0


def _analyze(args: argparse.Namespace) -> int:
    from libradet.analysis.analyze import PAGE, analyze
    from libradet.analysis.measuring import Options
    from libradet.api import load_model

    size = tuple(args.size) if args.size else None
    options = Options(pictures=args.pictures, seed=args.seed, size=size, batch_size=args.batch_size)
    report = analyze(
        load_model(args.model, _device(args.device)),
        args.data,
        args.out,
        args.split,
        name=args.model,
        options=options,
        proposals=args.proposals,
        skip_broken=args.skip_broken,
    )
    print(f"{report['verdict']['summary']}\n{args.out / PAGE}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from rich.console import Console

    from libradet.data.read import check

    report = check(args.data, args.split, skip_broken=args.skip_broken, decode=True)
    Console().print(report.render(str(args.data)))
    if args.json:
        write_json(args.json, report.to_json(), indent=1)
    return 2 if report.errors else 0


def _stats(args: argparse.Namespace) -> int:
    from rich.console import Console

    from libradet.data.read import read, splits
    from libradet.data.stats import measure

    size = tuple(args.size)
    found = {}
    for split in [args.split] if args.split else splits(args.data):
        dataset, _ = read(args.data, split, training=False, skip_broken=args.skip_broken, masks=False)
        stats = measure(dataset, size)
        Console().print(stats.render(f"{args.data}, {split}"))
        found[split] = stats.to_json()
    if args.json:
        write_json(args.json, found, indent=1)
    return 0


def _synthesize(args: argparse.Namespace) -> int:
    from libradet.data.synthesis.synthetic import synthesize

    synthesize(args.out, train=args.train, val=args.val, size=tuple(args.size), classes=args.classes, seed=args.seed)
    print(f"{args.train} + {args.val} pictures in {args.out}; train on them: libradet train --data {args.out}")
    return 0


def _models(args: argparse.Namespace) -> int:
    from libradet.models.zoo import MODELS

    if args.cost:
        return _cost(args)
    for name, make in MODELS.items():
        print(f"{name:22} {make.__doc__}")
    print(
        "--backbone: resnet18, resnet50, resnet101, resnext101_64x4d, or any timm model with features (--backbones '*')"
    )
    if args.backbones:
        import timm

        print(*timm.list_models(args.backbones), sep="\n")
    return 0


def _cost(args: argparse.Namespace) -> int:
    from rich.console import Console

    from libradet.models.cost import measure_zoo
    from libradet.models.cost_table import render_costs

    size = tuple(args.size)
    costs = measure_zoo(args.model, args.num_classes, args.backbone, size, args.checkpointing, args.frozen)
    title = f"{args.backbone}, {args.num_classes} classes, {size[0]} × {size[1]} pixels"
    title += ", stem and first stage frozen" * args.frozen + ", with checkpointing" * args.checkpointing
    Console().print(render_costs(costs, title))
    return 0


def _device(name: str | None) -> str:
    import torch

    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def _version() -> str:
    from libradet import __version__

    return f"libradet {__version__}"
