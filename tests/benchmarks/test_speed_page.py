"""The committed page of the speed benchmark and the committed results agree."""

from benchmarks import publish


def test_page_is_that_of_the_results(monkeypatch, tmp_path):
    published = publish.PAGE.read_text()
    monkeypatch.setattr(publish, "PAGE", tmp_path / "speed.md")
    assert publish.write_page().read_text() == published
