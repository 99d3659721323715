"""Remove paths of scans, names of users and access tokens from logs and events."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, Protocol, runtime_checkable

TOKEN = "token"  # noqa: S105 - the name of an input, not a secret
"""Key of the one secret input: no event and no line of the log repeats its value."""

_PATH = re.compile(r"(?:[A-Za-z]:)?[\\/](?:[^\\/\s'\":;,()]+[\\/])+")


@runtime_checkable
class Request(Protocol):
    """What a job was asked to do."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Inputs of the job."""

    @property
    def output(self) -> str | Path | None:
        """Folder of its results."""


def redact_folders(text: str) -> str:
    """Return the text with every path cut to its last part."""
    # These may hold a space, at which the pattern would end the path.
    for known in (sys.prefix, sys.base_prefix, os.path.expanduser("~")):
        if len(known) > 1:
            text = text.replace(known, "…")
    return _PATH.sub("…/", text)


def redact_token(text: str, request: Request) -> str:
    """Return the text without the request's access token, plain or as `repr` and JSON show it."""
    token = request.inputs.get(TOKEN)
    if not isinstance(token, str):
        return text
    for secret in sorted({token, token.strip(), repr(token)[1:-1]}, key=len, reverse=True):
        if len(secret) > 3:
            text = text.replace(secret, "<token>")
    return text


def redact_paths(text: str, request: Request) -> str:
    """Return the text without the request's token, paths, and folders' and files' names."""
    text = redact_token(text, request)
    named = sorted({*_paths(request.inputs), *_paths({"output": str(request.output)})}, key=len)
    for path in reversed(named):
        if re.search(r"[\\/]", path):
            text = text.replace(path, "<path>")
        else:  # whole words only: a folder can have the name of a module
            text = re.sub(rf"(?<!\w){re.escape(path)}(?!\w)", "<path>", text)
    return text


def _texts(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _paths(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths among the values, their folders and names, also as `repr` shows them."""
    for value in _texts(values):
        if not re.search(r"[\\/]", value):
            continue
        path = PurePath(value)
        for shown in (value, str(path.parent), path.name):
            if len(shown) > 3:
                yield shown
                yield repr(shown)[1:-1]
