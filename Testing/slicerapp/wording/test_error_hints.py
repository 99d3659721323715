"""Every error code has a hint in each front end that can show it; messages contain none."""

import ast
import re
import string
from collections.abc import Iterator

import pytest
from error_codes import (
    CALLS,
    COMMAND_LINE,
    ERRORS,
    FILES,
    OF_COMMAND_LINE,
    OF_PANEL,
    PACKAGE,
    RAISED,
    Function,
    argument,
    called,
    codes_of,
    constants,
)
from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.service.cli import hints as cli_hints

Table = dict[str, str | tuple[str, ...]]


@pytest.fixture
def panel(app) -> Table:
    from SpatialARAnomalyLib.slicerapp.wording.Errors import allHints

    return allHints()


def alternatives(hints: str | tuple[str, ...]) -> tuple[str, ...]:
    return (hints,) if isinstance(hints, str) else hints


def placeholders(hint: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(hint) if name is not None}


def test_every_failure_of_the_command_line_has_a_hint():
    assert set(cli_hints.HINTS) == OF_COMMAND_LINE


def test_every_failure_of_the_panel_has_a_hint(panel):
    assert set(panel) == OF_PANEL


def test_no_hint_is_empty(panel):
    for table in (cli_hints.HINTS, panel):
        assert all(one.strip() for hints in table.values() for one in alternatives(hints))


def test_a_hint_shows_only_facts_that_its_failures_have(panel):
    facts: dict[str, list[set[str]]] = {code: [] for code, _ in RAISED}
    for file, function, call in CALLS:
        code = argument(call, "code", 0)
        if called(call) in ERRORS and code is not None:
            named = {one.arg for one in call.keywords if one.arg}
            for one, _ in codes_of(code, file, function):
                facts[one].append(named)
    for table in (cli_hints.HINTS, panel):
        for code, hints in table.items():
            shown = placeholders(alternatives(hints)[-1])
            assert all(shown <= named for named in facts[code]), code
            assert not (shown and code.startswith("worker-")), code


def test_the_first_hint_with_all_facts_is_shown():
    error = SpatialARError("model-modality", "Expected MR.", modality="CT")
    assert cli_hints.hint(error).startswith("Choose a model trained on CT,")
    two = ("Use {size_px} px.", "Use another size.")
    assert SpatialARError("size", "Wrong.", size_px=32).fill(two) == "Use 32 px."
    assert SpatialARError("size", "Wrong.").fill(two) == "Use another size."
    assert SpatialARError("size", "Wrong.").fill(two[0]) == ""


def test_the_command_lines_hints_name_options_and_commands_that_exist():
    from typer.main import get_command

    commands: set[str] = set()
    options: set[str] = set()

    def walk(command, path: str) -> None:
        commands.add(path)
        for parameter in command.params:
            options.update(parameter.opts)
        for name, below in getattr(command, "commands", {}).items():
            walk(below, f"{path} {name}")

    from SpatialARAnomalyLib.service.cli.main import app

    walk(get_command(app), "spatial-ar-anomaly")
    for hints in cli_hints.HINTS.values():
        for hint in alternatives(hints):
            assert set(re.findall(r"--[a-z-]+", hint)) <= options | {"--help"}, hint
            assert set(re.findall(r"`(spatial[^`]*)`", hint)) <= commands, hint


def test_the_panels_hints_are_short_and_name_controls_that_exist(panel):
    folder = PACKAGE.parent / "Resources" / "UI"
    texts = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.ui"))
    shown = set(re.findall(r"<string>([^<:]*):?</string>", texts))
    for hints in panel.values():
        for hint in alternatives(hints):
            assert "--" not in hint
            assert len(re.findall(r"[.?!](?=\s|$)", hint)) <= 2, hint
            assert len(hint.split()) <= 30, hint
            for name in re.findall(r"(?<!\w)'((?:[^']|'(?=\w))+)'(?!\w)", hint):
                assert name in shown, name


def texts_of_failures() -> Iterator[tuple[str, str]]:
    """Yield the texts of errors and notices outside of the command line, with their files."""
    makers = {*ERRORS, "notice"} | {
        one.name
        for tree in FILES.values()
        for one in ast.walk(tree)
        if isinstance(one, Function)
        and one.returns is not None
        and ast.unparse(one.returns) in ERRORS
    }
    for file, _, call in CALLS:
        if called(call) in makers and not COMMAND_LINE.match(file):
            for one in [*call.args, *(word.value for word in call.keywords)]:
                yield from ((text, file) for text in constants(one))


def test_no_message_names_options_or_controls():
    found = list(texts_of_failures())
    assert len(found) > 300
    for text, file in found:
        assert not re.search(r"(?<![\w-])--[a-z]", text), (file, text)
        if not file.startswith("slicerapp/"):
            spoken = r"\b(click|tick|button|panel|under (Advanced|Set-up)|section [A-Z])\b"
            assert not re.search(spoken, text, re.IGNORECASE), (file, text)


def test_errors_are_found_where_they_are_made():
    """Codes in helpers, conditionals, defaults and events are found, too."""
    codes = {code for code, _ in RAISED}
    assert {"encoder-lfs-pointer", "output-unwritable", "training-unwritable"} <= codes
    assert {"worker-silent", "worker-held", "pip-disk", "request-unreadable"} <= codes


def test_the_protocol_names_codes_that_exist():
    page = PACKAGE.parents[1] / "Resources" / "Docs" / "worker.md"
    table = page.read_text(encoding="utf-8").split("| code | meaning |")[1].split("\n\n")[0]
    named = {
        code
        for line in table.splitlines()
        for code in re.findall(r"`([a-z-]+)`", line.split("|")[1] if "|" in line else "")
    }
    assert "request-unreadable" in named
    assert named <= {code for code, _ in RAISED}


def test_the_page_of_error_codes_is_current(panel):
    """Run `PYTHONPATH=Testing .venv/bin/python Testing/Tools/make_troubleshooting.py` if not."""
    from Tools.make_troubleshooting import CAUSES, PAGE, page

    assert PAGE.read_text(encoding="utf-8") == page(panel)
    assert set(CAUSES) <= {code for code, _ in RAISED}
