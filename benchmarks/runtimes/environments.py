"""Environments of the runtimes: a folder with exactly pinned packages for each."""

import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.environments import install_python_packages, is_current, mark_current, pinned_version, run_command

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements"
RUNNERS = HERE / "runners"


class Runtime(NamedTuple):
    """A runtime and the form of the detectors that it runs.

    Attributes:
        name: name in the table; in lower case also that of the requirements file.
        package: distribution whose version is reported.
        runner: script in ``runners/``.
        suffix: of the exported file that it starts from; with .static for a file of one shape.
        converts_only: whether this machine cannot run the result.
    """

    name: str
    package: str
    runner: str
    suffix: str
    converts_only: bool = False

    @property
    def is_static(self) -> bool:
        """Whether it runs files of one shape."""
        return self.suffix.startswith(".static")

    @property
    def requirements(self) -> Path:
        """File of pinned packages."""
        return REQUIREMENTS / f"{self.package}.txt"

    @property
    def version(self) -> str:
        """Pinned version of the package."""
        return pinned_version(self.requirements, self.package)


RUNTIMES = (
    Runtime("onnxruntime", "onnxruntime", "onnxruntime_cpu.py", ".onnx"),
    Runtime("onnxruntime-web (node)", "onnxruntime-web", "onnxruntime_web.mjs", ".onnx"),
    Runtime("OpenVINO", "openvino", "openvino_cpu.py", ".onnx"),
    Runtime("MNN", "mnn", "mnn_cpu.py", ".onnx"),
    Runtime("AOTInductor", "torch", "aotinductor.py", ".static.pt2"),
    Runtime("ExecuTorch XNNPACK", "executorch", "executorch_xnnpack.py", ".static.pt2"),
    Runtime("LiteRT", "litert-torch", "litert_cpu.py", ".static.pt2"),
    Runtime("Core ML (conversion)", "coremltools", "coreml_conversion.py", ".static.pt2", converts_only=True),
    Runtime("ncnn (pnnx)", "pnnx", "ncnn_cpu.py", ".static.onnx"),
    Runtime("tract", "tract", "tract_cpu.py", ".static.onnx"),
)


def install(runtime: Runtime, folder: Path) -> list[str]:
    """Install the packages of a runtime in a folder, unless they are there, and return how its runner is started.

    Raises:
        RuntimeError: the packages cannot be installed.
    """
    script = str(RUNNERS / runtime.runner)
    if runtime.runner.endswith(".mjs"):
        return _install_npm(runtime, folder, script)
    if runtime.package == "torch":  # the version that libradet itself is pinned to
        return [sys.executable, script]
    return [str(install_python_packages(runtime.requirements, folder)), script]


def _install_npm(runtime: Runtime, folder: Path, script: str) -> list[str]:
    packages = folder / "packages"
    if not is_current(runtime.requirements, folder):
        packages.mkdir(parents=True, exist_ok=True)
        (packages / "package.json").write_text("{}")
        run_command(["npm", "install", "--silent", "--prefix", str(packages), f"{runtime.package}@{runtime.version}"])
        mark_current(runtime.requirements, folder)
    return ["node", script, str(packages)]
