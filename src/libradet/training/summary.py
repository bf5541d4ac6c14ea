"""Describe a training run before it starts."""

from rich.table import Table

from libradet.data.bit_depth import describe_bit_depth
from libradet.data.cache import format_bytes
from libradet.data.repeat_factors import describe_repeats
from libradet.data.tiff import is_windowed
from libradet.data.transforms.describe import name_of
from libradet.training.optim import total_steps
from libradet.training.setup import TrainSetup, describe_length
from libradet.utils.tables import facts_table
from libradet.utils.text import counted

OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW"}


def summarize_setup(setup: TrainSetup) -> Table:
    """Return a table with model, images, precision, schedule and folder of a run."""
    facts = {
        "model": _model(setup),
        "images": _images(setup),
        **_tiles(setup),
        **_proposals(setup),
        **_augmentation(setup),
        **_cache(setup),
        "precision": f"{setup.config.precision} ({setup.precision_reason})",
        "schedule": _schedule(setup),
        "folder": str(setup.folder),
    }
    if setup.detector.backbone.origin:
        facts["backbone"] = setup.detector.backbone.origin
    if setup.detector.reinitialized_layers:
        layers = ", ".join(setup.detector.reinitialized_layers)
        facts["random init"] = f"{layers}: not loaded from {setup.config.weights}"
    paths = list(dict.fromkeys(image.path for image in setup.data.train_set.images))
    if dark := describe_bit_depth(paths, setup.detector.bit_depth):
        facts["warning"] = dark
    state = setup.resume_state
    if state.path is not None:
        epoch, batch = divmod(state.batches, setup.batches_per_epoch)
        source = f", from {state.path.name}: {state.note}" if state.note else ""
        facts["resumes"] = f"in epoch {epoch + 1} after batch {batch}{source}"
        if setup.finished_reason:
            facts["resumes"] = f"nothing is left to train: {setup.finished_reason}"
        elif note := _kept_schedule(setup):
            facts["schedule"] += f" ({note})"
    return facts_table(facts)


def _model(setup: TrainSetup) -> str:
    config, parameters = setup.config, list(setup.detector.parameters())
    total = sum(p.numel() for p in parameters) / 1e6
    trained = sum(p.numel() for p in parameters if p.requires_grad) / 1e6
    weights = "random weights (--weights imagenet starts from pretrained ones)"
    if config.weights:
        weights = f"weights from {config.weights}"
    return f"{config.model} on {config.backbone}, {trained:.1f} of {total:.1f} M parameters trained, {weights}"


def _images(setup: TrainSetup) -> str:
    config = setup.config
    short, long = setup.detector.config.image.size
    processes = f"{config.world_size} {'GPU' if setup.on_gpu else 'CPU'} process{'es' if config.world_size > 1 else ''}"
    return f"shorter side {short}, longer side at most {long}; {config.effective_batch_size} per step on {processes}"


def _tiles(setup: TrainSetup) -> dict[str, str]:
    """Return how images are cut into tiles, what becomes of objects at their borders, and what decoding costs."""
    config, counts = setup.config, setup.data.tile_counts
    if config.tiles is None or counts is None:
        return {}
    size, overlap = config.tiles
    facts = {
        "tiles": f"{counts.tiles:,} of {size:g} px with an overlap of {overlap:g} in {counted(counts.images, 'image')}"
    }
    if counts.empty:
        fraction = config.tile_empty_fraction
        used = "" if fraction == 1 else ", left out" if fraction == 0 else f", {fraction:g} of them in each epoch"
        facts["tiles"] += f"; {counts.empty:,} without objects{used}"
    if counts.clipped or counts.background:
        facts["borders"] = (
            f"{counts.clipped:,} parts of objects are clipped to tiles; {counts.background:,} parts below "
            f"{config.tile_min_area_ratio:g} of the object's area are background"
        )
    if counts.lost:
        facts["lost"] = (
            f"{counted(counts.lost, 'object is', 'objects are')} in no tile; a larger overlap or size keeps them"
        )
    if config.cache is None and (slow := _count_decoded_tiles(setup)):
        facts["decoding"] = (
            f"{counted(slow, 'tile decodes', 'tiles decode')} the whole image each time: --cache disk "
            "decodes it once, TIFF files in tiles or "
            "strips are read by window"
        )
    return facts


def _count_decoded_tiles(setup: TrainSetup) -> int:
    images = [image for image in setup.data.train_set.images if image.tile is not None]
    has_windows = {path: is_windowed(path) for path in {image.path for image in images}}
    return sum(not has_windows[image.path] for image in images)


def _proposals(setup: TrainSetup) -> dict[str, str]:
    both = (setup.data.train_proposals, setup.data.val_proposals)
    files = dict.fromkeys(f"{p.file.path} (top {p.num_proposals} per image)" for p in both if p is not None)
    return {"proposals": ", ".join(files)} if files else {}


def _cache(setup: TrainSetup) -> dict[str, str]:
    kind = setup.data.cache
    if kind is None:
        return {}
    location = {"ram": "in shared memory", "disk": "in the run folder, deleted at the end"}[kind]
    return {"cache": f"{format_bytes(setup.data.cache_bytes)} of images for each process, {location}"}


def _augmentation(setup: TrainSetup) -> dict[str, str]:
    """Return augmentation if there is more than the default flip."""
    config, augmentation = setup.config, setup.data.augmentation
    mixing_epochs = augmentation.mixing_epochs
    until = "" if mixing_epochs is None else f" until epoch {mixing_epochs}"
    until = " in no epoch, as no_aug_epochs are all" if mixing_epochs == 0 else until
    parts = []
    if config.scale_jitter:
        parts.append(f"scale jitter {config.scale_jitter[0]:g} to {config.scale_jitter[1]:g}")
    if config.mosaic_prob:
        parts.append(f"mosaic {config.mosaic_prob:g}{until}")
    if config.copy_paste_prob:
        parts.append(f"copy-paste {config.copy_paste_prob:g}{until}")
    if config.repeat_factor_thresh:
        empty_fraction = config.tile_empty_fraction if config.tiles else 1.0
        parts.append(describe_repeats(setup.data.train_set, config.repeat_factor_thresh, empty_fraction))
    if config.mixup_prob:
        parts.append(f"mixup {config.mixup_prob:g}{until}")
    switches = ("vflip_prob", "rotate90_prob", "color_jitter", "gaussian_blur", "gaussian_noise")
    for name in switches:
        if value := getattr(config, name):
            parts.append(f"{name.removesuffix('_prob').replace('_', ' ')} {value:g}")
    parts += map(name_of, augmentation.transforms)
    return {"augmentation": ", ".join([f"flip {config.hflip_prob:g}", *parts])} if parts else {}


def _schedule(setup: TrainSetup) -> str:
    config = setup.config
    if config.lr_schedule == "cosine":
        steps = total_steps(config, setup.batches_per_epoch)
        decay = f"cosine to {config.min_lr_ratio:g} times lr after {counted(steps, 'step')}"
    else:
        milestones = " and ".join(f"{epoch:g}" for epoch in config.lr_milestones or [])
        decay = f"times {config.lr_gamma:g} after epochs {milestones}" if milestones else "constant"
    layer_decay = f", times {config.layer_decay:g} per backbone stage" if config.layer_decay else ""
    at_most = "" if config.max_steps is None else f", at most {counted(config.max_steps, 'step')}"
    return (
        f"{counted(config.max_epochs, 'epoch')} of {setup.batches_per_epoch} batches{at_most}, "
        f"{OPTIMIZERS[config.optimizer]}, "
        f"lr {config.lr:g}{layer_decay} after {counted(config.warmup_steps or 0, 'step')} of warm-up, {decay}"
    )


def _kept_schedule(setup: TrainSetup) -> str:
    """Return which settings a run keeps that is resumed with another length, since they belong to its first part."""
    if setup.started_length in ("", describe_length(setup.config.max_epochs, setup.config.max_steps)):
        return ""
    kept, options = "warm-up", "--warmup_steps"
    if setup.config.lr_schedule == "multistep":
        kept, options = "warm-up and milestones", "--warmup_steps and --lr_milestones"
    return f"{kept} as for {setup.started_length}; {options} change them"
