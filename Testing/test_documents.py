"""Documents: links lead somewhere, nothing is left to be filled in, commands exist."""

import re
from pathlib import Path

import pytest
import typer
from SpatialARAnomalyLib.service.cli.main import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "Resources").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document):
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_nothing_is_left_to_be_filled_in(document):
    text = document.read_text(encoding="utf-8")
    assert re.findall(r"TODO|TBD|FIXME|[A-Z]+_TABLE", text) == []


def options(command) -> set[str]:
    """The options of a command and of those below it."""
    own = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    return own.union(*map(options, getattr(command, "commands", {}).values()))


def test_options_named_in_documents_exist():
    known = {"--help", *options(typer.main.get_command(app))}
    assert {"--model", "--allow-download"} < known
    named = set()
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for block in re.findall(r"spatial-ar-anomaly [a-z].*?(?=\n\n|```|`)", text, re.DOTALL):
            named |= set(re.findall(r"--[a-z][a-z-]+", block))
    assert named
    assert {option for option in named if option not in known} == set()
