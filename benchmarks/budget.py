"""Time budget of a run: estimates of its processes, and the time that is left.

Estimates are seconds on two cores of an AMD EPYC with AVX-512 and bf16. They are scaled by the speed of this machine:
first by a large matrix product, then by the processes that have ended. A process that would exceed the budget is not
started, and one that does is ended, so a run cannot overrun: the report lists what was left out.
"""

import math
import time

from benchmarks.cases import Case, Contender

REFERENCE_FLOPS = 225e9
"""Peak FLOPS of that machine in fp32."""
START = 8.0
"""Seconds until a process has imported everything and built a detector."""
STEP = {("infer", "fp32"): 0.85, ("infer", "bf16"): 0.47, ("infer", "int8"): 0.4}
STEP |= {("train", "fp32"): 2.3, ("train", "bf16"): 1.2}
"""Seconds per image of 480x640, Faster R-CNN on ResNet-50."""
MODEL = {"mask_rcnn": 1.4, "retinanet": 1.2, "libra_retinanet": 1.2}
LIBRARY = {"torchvision": 1.5, "mmdetection": 1.6, "detectron2": 1.5, "rf-detr": 1.0}
PREPARATION = {"packed": 10.0, "compiled": 100.0, "onnxruntime": 35.0, "openvino": 35.0}
"""Seconds of compilation, or of export and optimization of the graph."""
COMPILED_TRAINING = 150.0
SMALL_BACKBONE = 1.2
"""Work that does not shrink with the backbone."""
PARTS = {"proposals": 75.0, "operations": 60.0, "loader": 60.0, "scaling": 125.0, "evaluation": 60.0}
KERNEL_RUNS = 6
"""Runs of the kernels alone before they are timed."""
SLOW_STEP = 10.0
"""Seconds of a step from which one step is enough to warm up."""
MARGIN = 1.1
MIN_SCALE, MAX_SCALE = 0.3, 20.0


def estimate_step(case: Case, precision: str) -> float:
    """Return the seconds of a step of eager libradet."""
    pixels = case.size[0] * case.size[1] / (480 * 640)
    seconds = STEP[case.task, precision] * case.batch * pixels * MODEL.get(case.model, 1.0)
    return seconds if case.backbone == "resnet50" else seconds * SMALL_BACKBONE


def estimate_process(
    contender: Contender, case: Case, steps: int, timed: float, replays_kernels: bool, first: bool
) -> float:
    """Return the seconds of a process that runs warm-up and ``steps`` steps, fewer if they exceed ``timed`` seconds.

    Args:
        first: nothing that this contender compiles is in the disk's cache.
    """
    step = estimate_step(case, contender.precision) * LIBRARY.get(contender.library, 1.0)
    steps = max(1, min(steps, int(timed / step)))
    seconds = START + (steps + (2 if step < SLOW_STEP else 1)) * step
    if replays_kernels:
        seconds += (KERNEL_RUNS + steps) * step
    preparation = PREPARATION.get(contender.variant, 0.0)
    if contender.variant == "compiled" and case.task == "train":
        preparation = COMPILED_TRAINING
    return seconds + (preparation if first else preparation / 3)


class Budget:
    """The time that is left, and the speed of this machine compared with that of the estimates.

    Args:
        seconds: of the whole run, from now on; None is unlimited.
        scale: seconds here for each estimated second.
    """

    def __init__(self, seconds: float | None, scale: float) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds
        self._initial = self._clip(scale)
        self._estimated = self._measured = 0.0

    @staticmethod
    def _clip(scale: float) -> float:
        return min(max(scale, MIN_SCALE), MAX_SCALE)

    @property
    def scale(self) -> float:
        """Seconds here for each estimated second; the initial value counts as two minutes of measurements."""
        return self._clip((120 * self._initial + self._measured) / (120 + self._estimated))

    @property
    def remaining(self) -> float:
        """Seconds that are left."""
        return max(0.0, self._end - time.monotonic())

    def allows(self, estimate: float) -> bool:
        """Return whether a process with this estimate is expected to end in time."""
        return MARGIN * estimate * self.scale <= self.remaining

    def record(self, estimate: float, seconds: float) -> None:
        """Correct the speed by a process that has ended."""
        self._estimated += estimate
        self._measured += seconds
