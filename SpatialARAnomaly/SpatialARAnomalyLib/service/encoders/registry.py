"""Places of this user's encoders, by the hash of their weights.

Models hold no paths; this small file in the user's settings lets a model find its encoder.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.engine.files import read_json, replacing
from SpatialARAnomalyLib.service.user_folder import user_folder

LOCK_S = 5.0
"""Seconds to wait for another process that changes the registry."""


def _file() -> Path:
    return user_folder() / "encoders.json"


def _read() -> dict[str, str]:
    try:
        known = read_json(_file())
        return {sha256: source for sha256, source in known.items() if isinstance(source, str)}
    except (OutputError, OSError, ValueError, AttributeError):
        return {}  # also without a home folder


def _change(change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    """Change the registry while no other process does; raises `OSError`."""
    from filelock import FileLock

    _file().parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_file().with_suffix(".lock"), timeout=LOCK_S)
    with lock, replacing(_file(), alone=True) as partial:
        partial.write_text(json.dumps(change(_read()), indent=1), encoding="utf-8")


def remember(weights_sha256: str, source: str) -> None:
    """Note where an encoder was loaded from, if the user's folder can be written."""
    if source != DEMONSTRATION and os.path.exists(source):
        source = str(Path(source).resolve())
    if _read().get(weights_sha256) != source:
        with suppress(OutputError, OSError):
            _change(lambda known: known | {weights_sha256: source})


def forget(source: str) -> None:
    """Remove an encoder from the registry; raises `OSError`."""
    if source in sources():
        _change(lambda known: {key: one for key, one in known.items() if one != source})


def sources() -> list[str]:
    """Return all encoders used or added on this machine: hub ids and paths, each once."""
    return list(dict.fromkeys(_read().values()))


def recall(weights_sha256: str) -> str | None:
    """Return the source of an encoder used before on this machine, if it is still there."""
    source = _read().get(weights_sha256)
    # Not `Path.exists`, which raises where a folder may not be searched any more.
    if source is None or (Path(source).is_absolute() and not os.path.exists(source)):
        return None
    return source
