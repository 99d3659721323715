"""Keeps the places of scans and the names of users out of the log and of events."""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from .worker_protocol import TOKEN, Request

_PATH = re.compile(r"(?:[A-Za-z]:)?[\\/](?:[^\\/\s'\":;,()]+[\\/])+")


def without_folders(text: str) -> str:
    """The text with only the last part of every path."""
    # Those that may hold a space, which a pattern cannot tell from the end of a path.
    for known in (sys.prefix, sys.base_prefix, str(Path.home())):
        if len(known) > 1:
            text = text.replace(known, "…")
    return _PATH.sub("…/", text)


def without_secrets(text: str, request: Request) -> str:
    """The text without the token that a request brings, also as `repr` or JSON show it."""
    token = request.inputs.get(TOKEN)
    if not isinstance(token, str):
        return text
    for secret in sorted({token, token.strip(), repr(token)[1:-1]}, key=len, reverse=True):
        if len(secret) > 3:
            text = text.replace(secret, "<token>")
    return text


def without_places(text: str, request: Request) -> str:
    """The text without the paths that a request names, and without what they are called."""
    text = without_secrets(text, request)
    named = sorted({*_paths(request.inputs), *_paths({"output": request.output})}, key=len)
    for path in reversed(named):
        if re.search(r"[\\/]", path):
            text = text.replace(path, "<path>")
        else:  # as a whole word: a folder may be called as a part of our own code is
            text = re.sub(rf"(?<!\w){re.escape(path)}(?!\w)", "<path>", text)
    return text


def _texts(value: Any) -> Iterator[str]:
    """The texts in a JSON value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _paths(values: Mapping[str, Any]) -> Iterator[str]:
    """The paths among the values, their folders and names, also as `repr` shows them."""
    for value in _texts(values):
        if not re.search(r"[\\/]", value):
            continue
        path = PurePath(value)
        for shown in (value, str(path.parent), path.name):
            if len(shown) > 3:
                yield shown
                yield repr(shown)[1:-1]
