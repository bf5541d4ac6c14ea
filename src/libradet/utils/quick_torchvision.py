"""Import torchvision without torch's compiler; imported before any other module that imports torchvision."""

from libradet.utils.deferred_import import deferred_compiler

with deferred_compiler():
    import torchvision

    # The only other module of torchvision that needs the compiler, for a decorator.
    import torchvision.tv_tensors

__all__ = ["torchvision"]
