"""The choice of an engine depends on the processor and on installed packages alone."""

import pytest

from libradet.cli import main
from libradet.engines import choose
from libradet.engines.choose import choose_engine
from libradet.errors import UserError


@pytest.fixture
def machine(monkeypatch):
    """Returns a function that sets instructions and installed software."""

    def pretend(onednn=True, bf16=True, compiler=True, packages=("onnx", "onnxscript", "onnxruntime", "openvino")):
        monkeypatch.setattr(choose, "has_onednn", lambda: onednn)
        monkeypatch.setattr(choose, "has_compiler", lambda: compiler)
        monkeypatch.setattr(choose.importlib.util, "find_spec", lambda name: name if name in packages else None)
        supported = "bf16" if bf16 else "fp32"

        def choose_precision(requested, device):
            return (supported if requested == "auto" else requested), ""

        monkeypatch.setattr(choose, "choose_precision", choose_precision)

    return pretend


def test_auto_follows_the_rule(machine, monkeypatch):
    machine()
    monkeypatch.setattr(choose, "has_int8_layers", lambda: True)
    assert choose_engine("auto", "auto", "cpu") == ("packed", "bf16")
    assert choose_engine("auto", "fp32", "cpu") == ("packed", "fp32")
    assert choose_engine("auto", "fp32", "cuda") == ("eager", "fp32")
    machine(bf16=False, compiler=False, packages=())
    assert choose_engine("auto", "auto", "cpu") == ("packed", "fp32")
    assert choose_engine("auto", "int8", "cpu") == ("packed", "int8")
    machine(onednn=False)
    assert choose_engine("auto", "fp32", "cpu") == ("eager", "fp32")


def test_int8_is_refused_without_its_operators(machine, monkeypatch):
    machine()
    monkeypatch.setattr(choose, "has_int8_layers", lambda: False)
    with pytest.raises(UserError, match="the engine packed needs oneDNN's INT8 operators"):
        choose_engine("packed", "int8", "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("tensorrt", "fp32", "cpu"),
            "engine is 'tensorrt': use eager, packed, compiled, onnxruntime, openvino or auto",
        ),
        (("compiled", "int4", "cpu"), "precision is 'int4'"),
        (("onnxruntime", "bf16", "cpu"), "onnxruntime computes in fp32"),
        (("openvino", "bf16", "cpu"), "no bf16 instructions"),
        (("openvino", "fp32", "cuda"), "runs on the CPU, and the detector is on cuda"),
        (("packed", "fp32", "cuda"), "runs on the CPU, and the detector is on cuda"),
        (("packed", "bf16", "cpu"), "no bf16 instructions"),
        (("compiled", "int8", "cpu"), "the engine compiled does not compute in int8: use the engine packed"),
        (("packed", "int8", "cuda"), "runs on the CPU, and the detector is on cuda"),
    ],
)
def test_what_does_not_run_is_refused(machine, arguments, message):
    machine(bf16=False)
    with pytest.raises(UserError, match=message):
        choose_engine(*arguments)


def test_missing_software_is_named(machine):
    machine(packages=("onnx", "onnxscript"), compiler=False)
    with pytest.raises(UserError, match=r"needs the package openvino: pip install '.\[export,openvino\]'"):
        choose_engine("openvino", "fp32", "cpu")
    machine(onednn=False, compiler=False)
    with pytest.raises(UserError, match="needs oneDNN"):
        choose_engine("packed", "fp32", "cpu")
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler"):
        choose_engine("compiled", "fp32", "cpu")


@pytest.mark.parametrize("command", [["predict"], ["evaluate", "--data"]])
def test_commands_refuse_what_an_engine_cannot_run(command, tmp_path, capfd):
    (tmp_path / "model.onnx").touch()
    (tmp_path / "images").mkdir()
    name, *options = command
    model, images = str(tmp_path / "model.onnx"), str(tmp_path / "images")
    if name == "predict":
        assert main([name, model, images, *options, "--engine", "compiled"]) == 2
        error = capfd.readouterr().err
        assert "leave --engine out" in error
        assert len(error.splitlines()) == 1
    else:
        assert main([name, model, *options, images, "--engine", "compiled"]) == 2
        assert "Traceback" not in capfd.readouterr().err
