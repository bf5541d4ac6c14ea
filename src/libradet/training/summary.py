"""What is about to happen, for people."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from libradet.training.prepare import Plan


def summarise(plan: Plan, console: Console) -> None:
    """Print model, pictures, precision, schedule and folder of a run."""
    lines = {
        "model": _model(plan),
        "pictures": _pictures(plan),
        **_proposals(plan),
        "precision": f"{plan.config.precision} ({plan.why_precision})",
        "schedule": _schedule(plan),
        "folder": str(plan.folder),
    }
    if plan.detector.fresh:
        lines["at random"] = f"{', '.join(plan.detector.fresh)}: not taken from {plan.config.weights}"
    if plan.standing.path is not None:
        epoch, batch = divmod(plan.standing.batches, plan.batches_per_epoch)
        lines["continues"] = f"in epoch {epoch + 1} after batch {batch}"
    table = Table.grid(padding=(0, 2))
    for name, text in lines.items():
        table.add_row(Text(name, "bold"), Text(text))
    console.print(table)


def _model(plan: Plan) -> str:
    config, parameters = plan.config, list(plan.detector.parameters())
    total = sum(p.numel() for p in parameters) / 1e6
    trained = sum(p.numel() for p in parameters if p.requires_grad) / 1e6
    start = (
        f"weights from {config.weights}" if config.weights else "random weights (--weights imagenet starts from others)"
    )
    return f"{config.model} on {config.backbone}, {trained:.1f} of {total:.1f} M parameters trained, {start}"


def _pictures(plan: Plan) -> str:
    config = plan.config
    short, long = plan.detector.config.image.size
    where = f"{config.world_size} {'GPU' if plan.on_gpu else 'CPU'} process{'es' if config.world_size > 1 else ''}"
    return f"short side {short}, long side at most {long}; {config.pictures_per_step} per step on {where}"


def _proposals(plan: Plan) -> dict[str, str]:
    given = [g for g in (plan.train_proposals, plan.val_proposals) if g is not None]
    files = dict.fromkeys(f"{g.file.path} (the best {g.count} of a picture)" for g in given)
    return {"proposals": ", ".join(files)} if files else {}


def _schedule(plan: Plan) -> str:
    config = plan.config
    drops = " and ".join(f"{step:g}" for step in config.steps or [])
    return (
        f"{config.epochs} epochs of {plan.batches_per_epoch} batches, lr {config.lr:g} after {config.warmup} steps of "
        f"warm-up, × {config.gamma:g} after epochs {drops or '–'}"
    )
