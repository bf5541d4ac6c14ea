"""``libradet train``: train a detector or resume a run. Its options are those of :mod:`libradet.training.options`."""

from libradet.cli import options
from libradet.training.options import parse_train


def run(argv: list[str]) -> int:
    """Train a detector, or resume a run."""
    request = parse_train(argv)
    options.require_inputs(data=request.config.data)
    from libradet.training.run import train

    train(request.config, request.detector, request.resume)
    return 0
