"""Commands import libraries lazily: those that need no tensors start without torch."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from libradet.data.synthesis.synthetic import synthesize
from libradet.models.serialization import save_model
from tests.helpers.tiny_detectors import tiny_detector

TOOLS = {"timm", "lightning", "torchmetrics", "supervision", "matplotlib", "tensorboard"}
HEAVY = {"torch", "torchvision", *TOOLS}
SOURCE = Path(__file__).parents[2] / "src"

# Runs commands one after the other, and then says of each how it ended and which libraries were there by then.
COMMANDS = """
import json, sys
from libradet.cli import main
ends = []
for command in sys.argv[1:]:
    try:
        code = main(command.split())
    except SystemExit as end:
        code = end.code
    ends.append([code, [name for name in sys.modules if "." not in name]])
print()
print(json.dumps(ends))
"""


def in_a_process(program: str, *argv: str, cwd: Path | None = None) -> tuple[str, str]:
    """What a program of its own says: the suite itself has loaded everything, and its run-time checks load more."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", program, *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=True)
    return done.stdout, done.stderr


def run_commands(commands: Sequence[str], cwd: Path) -> tuple[list[tuple[str, int]], dict[str, set[str]], str]:
    """Each command with its exit code; the libraries loaded by the end of each; and stderr."""
    out, said = in_a_process(COMMANDS, *commands, cwd=cwd)
    ends = json.loads(out.splitlines()[-1])
    codes = [(command, code) for command, (code, _) in zip(commands, ends, strict=True)]
    return codes, {command: set(names) for command, (_, names) in zip(commands, ends, strict=True)}, said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset, and a file that is no model."""
    folder = tmp_path_factory.mktemp("lazy_imports")
    synthesize(folder / "data", train=1, val=1, size=(96, 80), classes=2)
    (folder / "no_model.pth").write_text("nothing")
    (folder / "x.jpg").touch()
    return folder


def test_what_needs_no_tensors_waits_for_no_torch(folder):
    commands = ["--help", "--version", "models", "models --help", "data check --help", "train --help"]
    commands += ["data check data"]
    codes, loaded, _ = run_commands(commands, folder)
    assert codes == [(command, 0) for command in commands]
    for command in commands:
        assert not loaded[command] & HEAVY, command


REFUSED = {
    "evaluate absent1 --data data": "absent1",
    "evaluate no_model.pth --data absent2": "absent2",
    "predict absent3 x.jpg --output_dir o": "absent3",
    "predict no_model.pth --data absent4 --output_dir o": "absent4",
    "convert absent5 o.safetensors": "absent5",
    "train --data absent6": "absent6",
    "train --data data --weights absent7": "absent7",
    "train --resume absent8": "absent8",
    "train --data data --max_epochs 0": "epochs",
    "train --data data --lrr 1": "--lr",
}


def test_what_is_not_there_is_refused_before_torch(folder):
    codes, loaded, said = run_commands(list(REFUSED), folder)
    assert codes == [(command, 2) for command in REFUSED]
    lines = said.splitlines()
    assert all(named in line for named, line in zip(REFUSED.values(), lines, strict=True)), said
    for command in REFUSED:
        assert not loaded[command] & HEAVY, command


def test_what_is_no_model_is_refused_with_torch_alone(folder):
    commands = ["evaluate no_model.pth --data data", "predict no_model.pth x.jpg --output_dir o"]
    commands += ["convert no_model.pth o.pth"]
    codes, loaded, said = run_commands(commands, folder)
    assert codes == [(command, 2) for command in commands]
    assert said.count("no_model.pth: not a readable checkpoint") == 3
    for command in commands:
        assert "torch" in loaded[command], "or this test sees nothing"
        assert not loaded[command] & TOOLS, command


def test_the_components_need_torch_only():
    program = "import libradet\nfrom libradet.balance import BalancedFeaturePyramid, balanced_l1_loss, select"
    out, _ = in_a_process(f"import sys\n{program}\nprint(*sys.modules)")
    assert "torch" in out.split()
    assert not set(out.split()) & {"torchvision", *TOOLS}


def test_configurations_need_no_torch():
    program = "from libradet.models.zoo import MODELS\nfrom libradet.training.config import TrainConfig"
    out, _ = in_a_process(f"import sys\n{program}\nprint(*sys.modules)")
    assert "libradet.training.config" in out.split()
    assert not set(out.split()) & HEAVY


UNUSED_BY_PREDICT = (
    "torch._dynamo",
    "sympy",
    "triton",
    "wandb",
    "matplotlib",
    "scipy.interpolate",
    "scipy.spatial",
    "lightning",
    "torchmetrics",
    "tensorboard",
    "peft",
)
UNUSED_BY_PREDICT += ("transformers", "albumentations", "onnxruntime", "openvino", "sklearn", "pandas")


def test_prediction_imports_what_it_uses(folder, tmp_path):
    save_model(tiny_detector(), tmp_path / "model.safetensors")
    image = next((folder / "data").rglob("*.jpg"))
    program = "import sys\nfrom libradet.cli import main\nmain(sys.argv[1:])\nprint(*sys.modules)"
    out, _ = in_a_process(program, "predict", "model.safetensors", str(image), "--score_thresh", "0", cwd=tmp_path)
    loaded = set(out.splitlines()[-1].split())
    assert {"timm", "supervision"} < loaded, "or this test shows nothing"
    assert not loaded & set(UNUSED_BY_PREDICT)
    assert (tmp_path / "predictions" / "predictions.json").is_file()
