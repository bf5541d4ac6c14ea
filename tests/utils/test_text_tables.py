"""Text tables for a terminal and as Markdown."""

from libradet.utils.tables import TextTable, facts_table

TABLE = TextTable("A title", ["", "AP"], [["plain", "41.0 (35.9)"], ["[bold]name", "43.0"]], ["First note.", "Second."])


def test_markdown_and_terminal_have_the_same_cells():
    rows = [line for line in TABLE.to_markdown().splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in rows[2].strip("|").split("|")] == TABLE.rows[0]
    assert len({row.count("|") for row in rows}) == 1
    table = TABLE.to_rich()
    assert [str(cell) for cell in table.columns[1].cells] == [cells[1] for cells in TABLE.rows]
    assert [str(cell) for cell in table.columns[0].cells] == ["plain", "[bold]name"]


def test_markdown_has_title_and_notes():
    text = TABLE.to_markdown(level=3)
    assert text.startswith("### A title\n\n|")
    assert text.endswith("\n\nFirst note.\n\nSecond.\n")
    assert TextTable("t", ["a"], [["1"]]).to_markdown() == "## t\n\n| a |\n| --- |\n| 1 |\n"


def test_facts_are_text():
    table = facts_table({"images": "12", "name": "[red]x"})
    assert [str(cell) for cell in table.columns[1].cells] == ["12", "[red]x"]
