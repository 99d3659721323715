"""Every error code has a hint in each front end that can show it; messages contain none."""

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import SpatialARAnomalyLib
from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.service.cli import hints as cli_hints

PACKAGE = Path(SpatialARAnomalyLib.__file__).parent
FILES = {
    (name := path.relative_to(PACKAGE).as_posix()): ast.parse(
        path.read_text(encoding="utf-8"), name
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}
COMMAND_LINE = re.compile(r"service/cli/")
PIP = "service/setup/packages.py"
"""Its codes are in a table, by words of pip's output."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def error_classes() -> set[str]:
    """Names of the package's error classes."""
    found = {SpatialARError.__name__}
    classes = [n for tree in FILES.values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    for _ in classes:
        found |= {one.name for one in classes if found & {ast.unparse(b) for b in one.bases}}
    return found


ERRORS = error_classes()


def calls() -> Iterator[tuple[str, Function | None, ast.Call]]:
    """Yield every call with its file and the function around it."""

    def below(file: str, node: ast.AST, function: Function | None) -> Iterator:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield file, function, child
            inner = child if isinstance(child, Function) else function
            yield from below(file, child, inner)

    for file, tree in FILES.items():
        yield from below(file, tree, None)


CALLS = list(calls())


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)


def argument(call: ast.Call, name: str, place: int) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    return call.args[place] if len(call.args) > place else None


def codes_of(code: ast.expr, file: str, function: Function | None) -> set[tuple[str, str]]:
    """Return the codes that an expression can have, each with the file of its constant.

    Fails for any other expression, so that no code is missing from the tables.
    """
    if isinstance(code, ast.Constant) and isinstance(code.value, str):
        return {(code.value, file)}
    if isinstance(code, ast.IfExp):
        return codes_of(code.body, file, function) | codes_of(code.orelse, file, function)
    text = ast.unparse(code)
    if isinstance(code, ast.Attribute) and code.attr == "code":
        return set()  # of another error, which has been met where it was made
    if re.fullmatch(r"(str\()?\w+(\['code'\]|\.get\('code'\))\)?", text):
        return set()  # of an error as JSON, as above
    if isinstance(code, ast.Name) and function is not None:
        names = [one.arg for one in function.args.args]
        keywords = [one.arg for one in function.args.kwonlyargs]
        if text in names + keywords:
            return codes_of_parameter(text, file, function)
        if "cause_of_failure" in ast.unparse(function):
            return {(found, PIP) for found in constants(FILES[PIP]) if found.startswith("pip-")}
    raise AssertionError(f"{file}:{code.lineno}: write the code {text} as a constant")


def codes_of_parameter(name: str, file: str, function: Function) -> set[tuple[str, str]]:
    """Return the codes that callers pass to a function, and its default."""
    arguments = function.args
    plain = [one.arg for one in arguments.args]
    defaults = dict(zip(reversed(plain), reversed(arguments.defaults), strict=False))
    for one, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if value is not None:
            defaults[one.arg] = value
    methods = plain[:1] == ["self"]
    place = plain.index(name) - methods if name in plain else len(plain)
    found: set[tuple[str, str]] = set()
    for where, inside, call in CALLS:
        if called(call) != function.name or (function.name.startswith("_") and where != file):
            continue
        given = argument(call, name, place) or defaults[name]
        found |= codes_of(given, where, inside)
    assert found, f"{file}: no call of {function.name} was found"
    return found


def constants(tree: ast.AST) -> set[str]:
    return {
        one.value
        for one in ast.walk(tree)
        if isinstance(one, ast.Constant) and isinstance(one.value, str)
    }


def raised() -> set[tuple[str, str]]:
    """Return every error code, with the file of its constant."""
    found: set[tuple[str, str]] = set()
    for file, function, call in CALLS:
        if called(call) in ERRORS:
            code = argument(call, "code", 0)
            assert code is not None, ast.unparse(call)
            found |= codes_of(code, file, function)
    for file, tree in FILES.items():
        for function in (one for one in ast.walk(tree) if isinstance(one, Function)):
            for one in (one for one in ast.walk(function) if isinstance(one, ast.Dict)):
                keys = [key and ast.unparse(key) for key in one.keys]
                event = dict(zip(keys, one.values, strict=True))
                if ast.unparse(event.get("'event'", one)) == "'failed'":
                    found |= codes_of(event["'code'"], file, function)
    return found


RAISED = raised()
OF_COMMAND_LINE = {code for code, file in RAISED if not file.startswith("slicerapp/")}
OF_PANEL = {code for code, file in RAISED if not COMMAND_LINE.match(file)}


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
