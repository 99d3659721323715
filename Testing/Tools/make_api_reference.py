"""Write Resources/Docs/api.md, the reference of the Python interface, from its docstrings.

    PYTHONPATH=Testing .venv/bin/python Testing/Tools/make_api_reference.py

The code is read, not run, so that the page is the same on every Python.
"""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import SpatialARAnomalyLib

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "Resources/Docs/api.md"
PACKAGE = ROOT / "SpatialARAnomaly/SpatialARAnomalyLib"

HEAD = """\
# Reference of the Python interface

All names that `SpatialARAnomalyLib` exports; [the Python interface](python.md) has examples.
`Testing/Tools/make_api_reference.py` makes this page from the docstrings.
"""

SECTIONS = ("Args", "Returns", "Raises", "Yields")


def source_of(name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef, str]:
    """Return the module of an exported name, its node, and the module's code."""
    (module,) = (one for one, names in SpatialARAnomalyLib._MODULES.items() if name in names)
    return (module, *node_of(module, name))


def node_of(module: str, name: str) -> tuple[ast.ClassDef | ast.FunctionDef, str]:
    """Return the node of a module's class or function, and the module's code."""
    code = PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    for node in ast.parse(code).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node, code
    raise LookupError(f"{module} defines no {name}")


def docstring(node: ast.AST) -> str:
    """Return a docstring as Markdown: its sections `Args:`, `Raises:` … as lists."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", ast.get_docstring(node) or "", flags=re.M)
    lines = [plain(parts[0])]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        items = re.split(r"^(?=\S)", textwrap.dedent(body), flags=re.M)
        pairs = (one.partition(": ") for one in items if one.strip())
        lines.append(f"*{title}*\n\n" + "\n".join(item(*pair) for pair in pairs))
    return "\n\n".join(one for one in lines if one)


def item(name: str, colon: str, text: str) -> str:
    """Return a line of a list, for `name: text` or a text alone."""
    return f"- `{name}`: {plain(text)}" if colon else f"- {plain(name)}"


def plain(text: str) -> str:
    """Return a text with a line per paragraph."""
    return "\n\n".join(" ".join(one.split()) for one in re.split(r"\n\s*\n", text.strip()))


def signature(node: ast.FunctionDef, code: str) -> str:
    """Return the lines of a function from `def` to its colon, without `self`."""
    start = code.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]
    text = textwrap.dedent("\n".join(start)).rstrip()
    return re.sub(r"\(self(, )?", "(", text.removesuffix(":"))


def members(node: ast.ClassDef, code: str) -> list[tuple[str, str, str, str]]:
    """Return name, type, default and docstring of each field."""
    found = []
    for one, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            kind = ast.get_source_segment(code, one.annotation) or ""
        elif isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name):
            kind = ""
        else:
            continue
        target = one.target if isinstance(one, ast.AnnAssign) else one.targets[0]
        if target.id.startswith("_"):
            continue
        default = ast.get_source_segment(code, one.value) if one.value else ""
        told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        text = plain(inspect.cleandoc(after.value.value)) if told else ""
        found.append((target.id, " ".join(kind.split()), " ".join(default.split()), text))
    return found


def bases(node: ast.ClassDef, module: str, code: str) -> list[tuple[ast.ClassDef, str, str]]:
    """Return the class after the classes of this package that it extends, with their code."""
    package = f"{SpatialARAnomalyLib.__name__}."
    imported = {
        alias.name: one.module.removeprefix(package)
        for one in ast.walk(ast.parse(code))
        if isinstance(one, ast.ImportFrom) and (one.module or "").startswith(package)
        for alias in one.names
    }
    found = []
    for name in map(ast.unparse, node.bases):
        if name in imported:
            parent, text = node_of(imported[name], name)
            found += bases(parent, imported[name], text)
    return [*found, (node, module, code)]


def cells(*values: str) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def code_cell(text: str) -> str:
    """Return a text as code, or nothing."""
    return f"`{text}`" if text else ""


def describe_class(node: ast.ClassDef, module: str, code: str) -> str:
    """Describe a class: docstring, fields with those of its bases, methods."""
    parts = [docstring(node)]
    family = bases(node, module, code)
    fields = {row[0]: row for one, _, text in family for row in members(one, text)}
    if fields:
        rows = [
            cells(code_cell(name), code_cell(kind), code_cell(default), text)
            for name, kind, default, text in fields.values()
        ]
        parts.append("\n".join([cells("field", "type", "default", ""), "| --- " * 4 + "|", *rows]))
    methods = [
        one
        for one in node.body
        if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")
    ]
    for one in methods:
        is_property = any("property" in ast.unparse(two) for two in one.decorator_list)
        named = one.name if is_property else signature(one, code).removeprefix("def ")
        parts.append(f"`{' '.join(named.split())}`: {docstring(one)}")
    return "\n\n".join(one for one in parts if one)


def page() -> str:
    """Return the page's text."""
    functions, classes = [], []
    for name in SpatialARAnomalyLib.__all__:
        module, node, code = source_of(name)
        if isinstance(node, ast.FunctionDef):
            shown = f"```python\n{signature(node, code)}\n```\n\n{docstring(node)}"
            functions.append(f"### {name}\n\n{shown}")
        else:
            classes.append(f"### {name}\n\n{describe_class(node, module, code)}")
    parts = [HEAD.rstrip(), "## Functions", *functions, "## Classes", *classes]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
