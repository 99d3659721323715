"""Links, code paths, commands and options named in the documents exist."""

import ast
import functools
import importlib
import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from PIL import Image
from SpatialARAnomalyLib.service.cli.main import app

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "SpatialARAnomaly/SpatialARAnomalyLib"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "Resources").rglob("*.md")),
]
IDS = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]

CODE_PATH = re.compile(
    r"(?<![\w./-])(?:engine|service|slicerapp|Testing|SpatialARAnomaly|Resources|\.ci|\.github)"
    r"(?:/[\w.*-]+)+/?"
)
"""A path of this repository, from its root or from the package."""

PYTHON_FILE = re.compile(r"`(?:[\w/]+/)?(\w+\.py)\b")
"""A Python file that is named alone or from a folder of the package."""

FENCE = re.compile(r"^ *(```|~~~).*?^ *\1", re.DOTALL | re.MULTILINE)

WRITTEN_BY_COMMANDS = {"Testing/Benchmark/speed_results.jsonl"}
"""Paths that a documented command creates."""


def read(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def missing_paths(text: str) -> list[str]:
    """Code paths in a text that exist neither in the repository nor in the package."""
    named = {path.rstrip("./") for path in CODE_PATH.findall(text)} - WRITTEN_BY_COMMANDS
    return sorted(
        path for path in named if not any(any(base.glob(path)) for base in (ROOT, PACKAGE))
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_lead_to_files(document):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", read(document))
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing == []


def anchors(document: Path) -> set[str]:
    """The anchors that a Markdown renderer gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", read(document)), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_lead_to_headings(document):
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", read(document))
    missing = [
        f"{file}#{anchor}"
        for file, anchor in links
        if anchor not in anchors(document.parent / file if file else document)
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_code_paths_exist(document):
    assert missing_paths(read(document)) == []


def test_a_path_that_does_not_exist_is_found():
    text = "`engine/specs.py`, `Testing/Benchmark/*.py`, engine/none.py and `service/gone/`."
    assert missing_paths(text) == ["engine/none.py", "service/gone"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_python_files_exist(document):
    files = {
        path.name
        for folder in ("SpatialARAnomaly", "Testing")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert set(PYTHON_FILE.findall(read(document))) - files == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_nothing_is_left_to_be_filled_in(document):
    assert re.findall(r"TODO|TBD|FIXME|[A-Z]+_TABLE", read(document)) == []


@functools.cache
def shown_texts() -> str:
    """All texts of the program and of its forms, in lower case."""
    texts = [
        node.value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for form in (ROOT / "SpatialARAnomaly/Resources/UI").glob("*.ui"):
        texts += [node.text or "" for node in ElementTree.parse(form).iter("string")]
    return (
        "\n".join(texts)
        .lower()
        .replace("{how}", "crashed\nthe worker process ended without a result")
    )


@pytest.mark.parametrize("page", ["setup.md", "module.md"])
def test_quoted_messages_are_shown_by_the_program(page):
    """Messages are the italic texts in the first column of a table with the head `message`."""
    tables = re.findall(
        r"^\| message \|.*?(?=\n\n)", read(ROOT / "Resources/Docs" / page), re.S | re.M
    )
    messages = re.findall(
        r"\*([^*]+)\*", "\n".join(re.findall(r"^\|([^|]*)", "\n".join(tables), re.M))
    )
    assert messages
    texts = shown_texts()
    parts = [part.strip() for message in messages for part in message.lower().split("…")]
    assert [part for part in parts if part not in texts] == []


@pytest.mark.parametrize("page", ["setup.md", "module.md", "evaluation.md", "encoders.md"])
def test_controls_named_in_bold_exist(page):
    """Bold texts that end with `…` are buttons."""
    buttons = set(re.findall(r"\*\*([^*→]+…)\*\*", read(ROOT / "Resources/Docs" / page)))
    texts = shown_texts()
    assert {button for button in buttons if button.lower() not in texts} == set()


def test_the_tutorial_names_controls_as_the_panel_does():
    """All bold texts; `slicerapp/panels/test_tutorial_page.py` clicks them."""
    bold = set(re.findall(r"\*\*([^*]+)\*\*", read(ROOT / "Resources/Docs/tutorial.md")))
    assert "Detect anomalies" in bold
    texts = set(shown_texts().split("\n"))
    assert {one for one in bold if one.lower() not in texts} == set()


@pytest.mark.parametrize("page", ["tutorial.md", "for_radiologists.md"])
def test_names_in_italics_are_those_of_the_panel(page):
    text = re.sub(r"\*\*[^*]+\*\*", "", read(ROOT / "Resources/Docs" / page))
    italic = set(re.findall(r"\*([A-Z][^*]+)\*", text))
    assert {"Threshold", "Per normal scan"} <= italic
    texts = shown_texts().replace(":", "").replace("\n", " ")
    parts = {part.lower() for one in italic for part in re.split(" → ", one)}
    assert {one for one in parts if one not in texts} == set()


def test_every_page_is_in_an_index():
    docs = ROOT / "Resources/Docs"
    for index in (docs / "README.md", docs / "decisions/README.md"):
        pages = {path.name for path in index.parent.glob("*.md")} - {"README.md"}
        assert pages - set(re.findall(r"\]\(([\w.-]+)\)", read(index))) == set()


@pytest.mark.parametrize("tool", ["make_api_reference"])
def test_generated_pages_are_current(tool):
    """Run `PYTHONPATH=Testing .venv/bin/python Testing/Tools/<tool>.py` where it fails."""
    made = importlib.import_module(f"Tools.{tool}")
    assert read(made.PAGE) == made.page()


PICTURE = re.compile(r"!\[([^\]]*)\]\(<?([^)>]+)>?\)")
MAX_PICTURE_BYTES = 2_000_000


def test_pictures_can_be_seen_and_are_described():
    for document in DOCUMENTS:
        for words, file in PICTURE.findall(read(document)):
            assert len(words) > 5, f"{document.name}: say what {file} shows"
            path = document.parent / file
            assert path.stat().st_size < MAX_PICTURE_BYTES, file
            with Image.open(path) as image:
                image.verify()


def test_no_picture_is_left_over():
    texts = "".join(map(read, [*DOCUMENTS, ROOT / "CMakeLists.txt"]))
    pictures = [
        *(ROOT / "Resources/Screenshots").iterdir(),
        *(ROOT / "Resources/Docs/pictures").iterdir(),
    ]
    assert [path.name for path in pictures if path.name not in texts] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_to_the_web_are_encrypted_and_whole(document):
    links = re.findall(r"\]\(([a-z]+:[^)]*)\)", read(document))
    assert [one for one in links if not re.fullmatch(r"https://[\w.-]+\.\w+(/\S*)?", one)] == []


def commands(command, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], set[str]]:
    """The options of each command by its words; groups have those of their commands."""
    own = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    found = {words: {"--help", "-h", *own}}
    for name, below in getattr(command, "commands", {}).items():
        deeper = commands(below, (*words, name))
        found |= deeper
        found[words] |= deeper[(*words, name)]
    return found


def test_commands_named_in_documents_exist_with_their_options():
    known = commands(typer.main.get_command(app))
    assert "--markdown" in known["models", "show"]
    checked = 0
    for document in DOCUMENTS:
        text = read(document).replace("\\\n", " ")
        for line in re.findall(r"spatial-ar-anomaly (?=[a-z-])([^`\n]*)", text):
            words = line.split("#")[0].split()
            plain = tuple(itertools.takewhile(lambda word: not word.startswith("-"), words))
            if plain[:1] == ("COMMAND",):  # stands for any
                continue
            named = plain[:2] if plain[:2] in known else plain[:1]
            assert named in known, f"{document.name}: {line}"
            options = {one.split("=")[0] for one in words if re.match(r"--?[a-z]", one)}
            assert options <= known[named], f"{document.name}: {line}"
            checked += 1
    assert checked > 40
