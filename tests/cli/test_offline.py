"""Local files are worked on without the network."""

import socket
from pathlib import Path

import pytest

from libradet.cli import main
from libradet.data.synthesis.synthetic import synthesize

TINY = Path(__file__).parents[1] / "training" / "tiny.yaml"


class Cut(socket.socket):
    """Processes of one machine may talk to each other, nobody else."""

    def __init__(self, family=socket.AF_INET, *rest, **more):
        if family not in (-1, socket.AF_UNIX):
            raise AssertionError(f"somebody wants the network ({family})")
        super().__init__(family, *rest, **more)

    def connect(self, address):
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"somebody wants to reach {address}")
        super().connect(address)


@pytest.fixture
def offline(monkeypatch):
    def asked(*args, **_):
        raise AssertionError(f"somebody looks up {args[:2]}")

    monkeypatch.setattr(socket, "socket", Cut)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, asked)


def test_training_measuring_predicting_and_analysing(offline, tmp_path, capfd):
    data, out = tmp_path / "data", tmp_path / "run"
    synthesize(data, train=4, val=2, size=(144, 96), classes=2)
    assert (
        main(["train", "--config", str(TINY), "--data", str(data), "--output_dir", str(out), "--max_epochs", "1"]) == 0
    )
    best = str(out / "best.safetensors")
    assert main(["evaluate", best, "--data", str(data)]) == 0
    assert main(["predict", best, str(data / "images"), "--output_dir", str(tmp_path / "seen")]) == 0
    assert main(["analyze", best, "--data", str(data), "--output_dir", str(tmp_path / "report")]) == 0
    assert main(["convert", best, str(tmp_path / "copy.safetensors")]) == 0
    assert "wants the network" not in "".join(capfd.readouterr())


def test_the_cut_cuts(offline):
    with pytest.raises(AssertionError, match="network"):
        socket.socket(socket.AF_INET)
    with pytest.raises(AssertionError, match="looks up"):
        socket.create_connection(("127.0.0.1", 9))
