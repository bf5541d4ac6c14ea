"""Import timm without wandb, which it needs to write summaries of its own training script."""

from libradet.utils.deferred_import import deferred_import

with deferred_import("wandb"):
    import timm

__all__ = ["timm"]
