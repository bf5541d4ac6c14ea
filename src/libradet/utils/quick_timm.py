"""Import timm without wandb, which it needs to write summaries of its own training script, and torch's compiler."""

from libradet.utils.deferred_import import deferred_compiler, deferred_import

with deferred_compiler(), deferred_import("wandb"):
    import timm

__all__ = ["timm"]
