"""Every error code of the package, read from its code: where it is made, and with what message."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import SpatialARAnomalyLib
from SpatialARAnomalyLib.engine.errors import SpatialARError

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

HINTS = ("service/cli/hints.py", "slicerapp/wording/Errors.py")
"""The tables of hints by code."""

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


def template(node: ast.expr | None) -> str:
    """Return the words of a message; `…` stands for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"\{\w+\}", "…", text)
        case ast.JoinedStr(values=parts):
            return re.sub("…+", "…", "".join(map(template, parts)))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return template(left) + template(right)
        case ast.Call(func=ast.Name(id="_"), args=[text]):
            return template(text)
        case ast.Call(func=ast.Attribute(attr="format", value=text)):
            return template(text)
    return "…"


def messages() -> dict[str, list[str]]:
    """Return the messages of each code that say something by themselves, in order of the code."""
    found: dict[str, list[str]] = {code: [] for code, _ in sorted(RAISED)}
    for file, function, call in CALLS:
        code = argument(call, "code", 0)
        if code is not None and called(call) in ERRORS:
            for one, _ in codes_of(code, file, function):
                found[one].append(template(argument(call, "message", 1)))
        elif isinstance(code, ast.Constant) and code.value in found and called(call) == "_fail":
            found[code.value].append(template(argument(call, "text", 1)))
    pairs: list[tuple[ast.AST | None, ast.expr]] = []
    trees = [tree for name, tree in FILES.items() if name not in HINTS]
    for node in (node for tree in trees for node in ast.walk(tree)):
        match node:  # tables of messages by code
            case ast.Tuple(elts=[key, value]):
                pairs.append((key, value))
            case ast.Dict(keys=keys, values=values):
                pairs += zip(keys, values, strict=True)
    for key, value in pairs:
        if isinstance(key, ast.Constant) and key.value in found:
            found[key.value].append(template(value))
    return {
        code: list(dict.fromkeys(one for one in texts if re.search(r"\w,? \w", one)))
        for code, texts in found.items()
    }
