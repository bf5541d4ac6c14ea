"""Links between pages, to their headings, and to files of the repository lead somewhere."""

import re

import pytest
import yaml
from pages import PAGES, ROOT

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)


def anchor(heading):
    """As the site makes it of a heading."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for target in LINK.findall(text):
        if re.match(r"https?:", target):
            continue
        path, _, place = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{target} is not there"
        if page.parent != ROOT:
            assert (ROOT / "docs") in file.resolve().parents, f"{target} is not on the site"
        if place:
            assert place in [anchor(heading) for heading in HEADING.findall(file.read_text())], target


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    listed = set(_leaves(yaml.safe_load(text)["nav"]))
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.parent != ROOT}
    assert listed == pages


def _leaves(tree):
    if isinstance(tree, str):
        return [tree]
    children = tree if isinstance(tree, list) else tree.values()
    return [leaf for child in children for leaf in _leaves(child)]


def test_the_version_is_the_same_everywhere():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"## {version}\n" in (ROOT / "CHANGELOG.md").read_text()
