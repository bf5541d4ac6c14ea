"""Downloads against a server on this machine: cut off, slow, absent, and with another file than was published."""

import hashlib
import socket

import pytest

from libradet.errors import UserError
from libradet.interop import download as module
from libradet.interop.download import MAX_RESUMES, download
from tests.helpers.file_server import file_server

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    with file_server() as server:
        server.files["/x.pth"] = CONTENT
        yield server


def only_file(folder):
    """Content of the only file in a folder."""
    [path] = folder.iterdir()
    return path.read_bytes()


@pytest.mark.parametrize("digits", [0, 8, 64])
def test_right_hash(server, tmp_path, digits, capsys):
    download(f"{server.url}/x.pth", tmp_path / "x.pth", SHA256[:digits])
    assert only_file(tmp_path) == CONTENT
    said = capsys.readouterr().err
    assert f"downloading {server.url}/x.pth to {tmp_path}" in said
    assert ("its SHA-256 is not known" in said) == (digits == 0)


def test_wrong_hash_leaves_nothing_behind(server, tmp_path):
    server.files["/x.pth"] = CONTENT[:-1] + b"!"
    with pytest.raises(UserError, match=f"x.pth: not the published file.*not {SHA256[:8]}; it was not kept") as e:
        download(f"{server.url}/x.pth", tmp_path / "x.pth", SHA256[:8])
    assert "\n" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_a_cut_connection_is_resumed(server, tmp_path):
    server.cut_after = [300_000, 200_000]
    download(f"{server.url}/x.pth", tmp_path / "x.pth", SHA256[:8])
    assert only_file(tmp_path) == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=300000-", "bytes=500000-"]


def test_the_next_attempt_resumes_what_has_arrived(server, tmp_path):
    server.cut_after = [1000] * (MAX_RESUMES + 1)
    with pytest.raises(UserError, match=r"cut off 6 times, after 0\.0 MB.*the next attempt resumes it.*by hand"):
        download(f"{server.url}/x.pth", tmp_path / "x.pth", SHA256[:8])
    assert only_file(tmp_path) == CONTENT[:6000]
    download(f"{server.url}/x.pth", tmp_path / "x.pth", SHA256[:8])
    assert server.requests[-1] == ("/x.pth", "bytes=6000-")
    assert only_file(tmp_path) == CONTENT


def test_a_server_that_cannot_resume_sends_everything_again(server, tmp_path):
    server.cut_after, server.resumes = [300_000], False
    download(f"{server.url}/x.pth", tmp_path / "x.pth", SHA256[:8])
    assert only_file(tmp_path) == CONTENT


@pytest.mark.parametrize("more", [b"", b"more"])
def test_a_part_that_is_complete_or_too_long(server, tmp_path, more):
    (tmp_path / "x.pth.part").write_bytes(CONTENT + more)
    if more:
        with pytest.raises(UserError, match="not the published file"):
            download(f"{server.url}/x.pth", tmp_path / "x.pth", SHA256[:8])
    download(f"{server.url}/x.pth", tmp_path / "x.pth", SHA256[:8])
    assert only_file(tmp_path) == CONTENT


def test_parts_of_a_file_without_known_hash_are_not_joined(server, tmp_path):
    (tmp_path / "x.pth.part").write_bytes(b"older version")
    download(f"{server.url}/x.pth", tmp_path / "x.pth")
    assert server.requests == [("/x.pth", None)]
    assert only_file(tmp_path) == CONTENT


def test_absent_file(server, tmp_path):
    with pytest.raises(UserError, match=r"absent\.pth cannot be downloaded \(HTTP 404 .*\); put the file at .*x\.pth"):
        download(f"{server.url}/absent.pth", tmp_path / "x.pth", SHA256[:8])
    assert list(tmp_path.iterdir()) == []


def test_slow_server(server, tmp_path, monkeypatch):
    server.pause = 0.02
    download(f"{server.url}/x.pth", tmp_path / "x.pth", SHA256[:8])
    assert len(server.requests) == 1
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    server.pause = 0.2
    with pytest.raises(UserError, match=r"cut off 6 times, after 0\.0 MB .*timed out"):
        download(f"{server.url}/x.pth", tmp_path / "y.pth", SHA256[:8])


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}", "http://no-such-host.invalid"])
def test_no_network(tmp_path, address):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = address.format(port=unused.getsockname()[1])
        with pytest.raises(UserError, match="LIBRADET_WEIGHTS_URL") as e:
            download(f"{url}/x.pth", tmp_path / "x.pth", SHA256[:8])
    message = str(e.value)
    assert message.startswith(f"{url}/x.pth cannot be downloaded (")
    assert str(tmp_path / "x.pth") in message
    assert "\n" not in message
