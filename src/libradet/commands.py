"""What the commands do, in a few lines each; each loads what it needs when it is called."""

import argparse
from typing import TYPE_CHECKING

from libradet.errors import UserError
from libradet.utils.atomic_io import require_exists, write_json

if TYPE_CHECKING:
    from libradet.inference.finder import Finder


def run_train(argv: list[str]) -> int:
    """Train a detector, or go on."""
    from libradet.train_options import parse_train

    request = parse_train(argv)
    from libradet.training.settings import check

    check(request.config)
    _refuse_absent(data=request.config.data)
    from libradet.training.run import train

    train(request.config, request.detector, request.resume)
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    """Measure a trained detector."""
    _refuse_absent(args.model, args.data)
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
        precision=args.precision,
        compiled=args.compile,
        results=args.results,
        proposals=args.proposals,
        flip=args.flip,
        sizes=args.scales,
    )
    show(metrics, f"{args.model} on {args.split} of {args.data}")
    if args.json:
        write_json(args.json, metrics, indent=1)
    return 0


def run_predict(args: argparse.Namespace) -> int:
    """Look at images, or write the proposals of a dataset."""
    if bool(args.data) == bool(args.images):
        raise UserError("name either images or a dataset with --data; see libradet predict --help")
    if args.split and not args.data:
        raise UserError("--split is one of --data, which is missing")
    size = tuple(args.size) if args.size else None
    _refuse_absent(args.model, args.data)
    from libradet.api import load_model
    from libradet.models.inference_form import optimize_finder
    from libradet.models.proposal_needs import check_finder
    from libradet.models.several_views import in_views

    model = optimize_finder(load_model(args.model, _device(args.device)), args.precision, args.compile)
    if args.data:
        return _propose(args, model, size)
    check_finder(model, args.proposals)
    from libradet.inference.prediction_files import describe, predict_files

    options = {"threshold": args.threshold, "size": size, "batch_size": args.batch_size, "proposals": args.proposals}
    done = predict_files(in_views(model, args.flip, args.scales), args.images, args.out, **options)
    print(describe(done, args.out))
    return 0


def _propose(args: argparse.Namespace, model: "Finder", size: tuple[int, int] | None) -> int:
    from libradet.data.read import read, splits
    from libradet.inference.proposing import check_proposing, propose
    from libradet.models.proposal_needs import check_finder
    from libradet.models.several_views import in_views

    check_proposing(model)
    check_finder(model, args.proposals)
    finder = in_views(model, args.flip, args.scales)
    for split in [args.split] if args.split else splits(args.data):
        dataset, _ = read(args.data, split, training=False, masks=False)
        path = args.out / f"{dataset.split}.safetensors"
        count = propose(finder, dataset, path, size=size, batch_size=args.batch_size)
        print(f"{path}: {count} proposals in {len(dataset)} images")
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Take over a checkpoint, or write one."""
    if args.norm_eps is not None and not 0 <= args.norm_eps < 1:
        raise UserError(f"--norm-eps is {args.norm_eps}: a small number such as 0 or 1e-5")
    _refuse_absent(args.source)
    from libradet.interop.loading import explain, load_checkpoint
    from libradet.interop.saving import differences, save_as
    from libradet.models.model_file import save_model

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


def run_export(args: argparse.Namespace) -> int:
    """Write a detector as a file that runs without libradet."""
    suffix = {"onnx": ".onnx", "torch": ".pt2"}
    if args.format and args.out.suffix != suffix[args.format]:
        raise UserError(f"--out {args.out}: a file of --format {args.format} ends in {suffix[args.format]}")
    _refuse_absent(args.model)
    from libradet.export.exporting import export, show
    from libradet.export.formats import format_of
    from libradet.inference.sights import find_images, sights
    from libradet.interop.loading import load_any

    format_of(args.out)
    named = {}
    for name in ("images", "int8"):
        found = find_images(getattr(args, name)) if getattr(args, name) else []
        named[name] = [sight.image.permute(1, 2, 0).numpy() for sight in sights(found)]
    size = tuple(args.size) if args.size else None
    written = export(load_any(args.model), args.out, size=size, resize=args.resize, **named)
    print(show(written))
    return 0


def run_analyze(args: argparse.Namespace) -> int:
    """Write the imbalance report."""
    from libradet.analysis.analyze import PAGE, analyze
    from libradet.analysis.measuring import Options
    from libradet.interop.loading import load_any

    size = tuple(args.size) if args.size else None
    options = Options(images=args.images, seed=args.seed, size=size, batch_size=args.batch_size)
    report = analyze(
        load_any(args.model, _device(args.device)),
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


def run_reproduce(args: argparse.Namespace) -> int:
    """Train and compare what the paper compares."""
    from rich.console import Console

    from libradet.experiments.reproduce import Options, reproduce

    options = Options(
        data=tuple(args.data),
        preset=args.preset,
        weights=args.weights,
        seeds=tuple(args.seeds),
        out=args.out,
        jobs=args.jobs,
        changes=tuple(args.set),
    )
    console = Console()
    for table in reproduce(args.what, options, console):
        console.print(table)
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Say whether training could start."""
    from rich.console import Console

    from libradet.data.read import check

    report = check(args.data, args.split, skip_broken=args.skip_broken, decode=True)
    Console().print(report.render(str(args.data)))
    if args.json:
        write_json(args.json, report.to_json(), indent=1)
    return 2 if report.errors else 0


def run_stats(args: argparse.Namespace) -> int:
    """Count what is in a dataset."""
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


def run_convert_data(args: argparse.Namespace) -> int:
    """Write a dataset in another layout."""
    from rich.console import Console

    from libradet.data.convert import convert

    options = {"splits": args.split, "images": args.images, "masks": args.masks, "skip_broken": args.skip_broken}
    done = convert(args.data, args.out, args.to, **options)
    Console().print(done.report.render(str(args.data)))
    for loss in done.losses:
        print(f"note: {loss}")
    counts = ", ".join(f"{split} {count:,}" for split, count in done.splits.items())
    print(f"{args.out}: {args.to}, images: {counts}")
    return 0


def run_synthesize(args: argparse.Namespace) -> int:
    """Draw a dataset."""
    from libradet.data.synthesis.synthetic import synthesize

    synthesize(args.out, train=args.train, val=args.val, size=tuple(args.size), classes=args.classes, seed=args.seed)
    print(f"{args.train} + {args.val} images in {args.out}; train on them: libradet train --data {args.out}")
    return 0


def run_models(args: argparse.Namespace) -> int:
    """List the zoo, or what it costs."""
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
    from libradet.models.cost_table import parse_bytes, render_costs

    size, limit = tuple(args.size), parse_bytes(args.memory) if args.memory is not None else None
    if args.batch_size < 1:
        raise UserError(f"--batch_size is {args.batch_size}; it has to be above 0")
    options = {"checkpointing": args.checkpointing, "frozen": args.frozen, "ema": args.ema}
    costs = measure_zoo(args.model, args.num_classes, args.backbone, size, bf16=args.precision == "bf16", **options)
    title = f"{args.backbone}, {args.num_classes} classes, {size[0]} × {size[1]} pixels, precision {args.precision}, "
    title += f"batches of {args.batch_size}" + f", {args.memory} of memory" * (limit is not None)
    title += ", stem and first stage frozen" * args.frozen + ", with checkpointing" * args.checkpointing
    title += ", with EMA" * args.ema
    Console().print(render_costs(costs, title, args.batch_size, limit))
    return 0


def _refuse_absent(model: str | None = None, data: str | None = None) -> None:
    """Before libraries are loaded that take seconds."""
    if model:
        require_exists(model)
    if data:
        from libradet.data.read import splits

        splits(data)


def _device(name: str | None) -> str:
    import torch

    return name or ("cuda" if torch.cuda.is_available() else "cpu")
