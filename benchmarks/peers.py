"""Install other libraries and OpenVINO for the benchmark, each in an environment of its own under build/peers/.

python -m benchmarks.peers

An environment adds a few packages to those of this one, so that all use the same PyTorch. mmdetection is that of the
maintained onedl-mmdetection, with torchvision's non-maximum suppression and RoIAlign in place of compiled ones. It has
the same weights but its own anchors and alignment, so its detections differ from torchvision's. RF-DETR nano is another
detector, with random weights and images of its own size: it is measured as what users would choose instead.
"""

import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from benchmarks.environments import is_current, mark_current, run_command
from benchmarks.processes import ROOT

REQUIREMENTS = ROOT / "benchmarks" / "peer_requirements"
FOLDER = ROOT / "build" / "peers"
PEERS = ("mmdetection", "rf-detr", "ultralytics", "openvino")
MODULES = {"mmdetection": "mmdet", "detectron2": "detectron2", "rf-detr": "rfdetr"}


def install(peer: str) -> None:
    """Install a library, unless it is there.

    Raises:
        RuntimeError: it cannot be installed.
    """
    requirements, folder = REQUIREMENTS / f"{peer}.txt", FOLDER / peer
    if is_current(requirements, folder):
        return
    uv, python = str(Path(sys.executable).with_name("uv")), str(folder / "bin" / "python")
    run_command([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run_command([uv, "pip", "install", "--quiet", "--no-deps", "--python", python, "-r", str(requirements)])
    mark_current(requirements, folder)


def python_of(library: str) -> str | None:
    """Return the Python of the environment of a library; None without one."""
    python = FOLDER / library / "bin" / "python"
    return str(python) if python.exists() and is_current(REQUIREMENTS / f"{library}.txt", FOLDER / library) else None


def is_installed(library: str) -> bool:
    """Return whether a library can be imported in its environment, or in this one."""
    return python_of(library) is not None or find_spec(MODULES[library]) is not None


def main() -> None:
    """Install all."""
    for peer in PEERS:
        try:
            install(peer)
            print(f"{peer}: {python_of(peer)}")
        except RuntimeError as error:
            print(f"{peer} cannot be installed: {error}")


if __name__ == "__main__":
    main()
