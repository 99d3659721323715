"""The hash of a file, block by block."""

import hashlib
from collections.abc import Callable
from pathlib import Path

_BLOCK_BYTES = 1 << 20


def _unheard(size_bytes: int) -> None:
    """Nobody wants to know."""


def file_sha256(path: Path, told: Callable[[int], None] = _unheard) -> str:
    """The SHA-256 of a file, hexadecimal; raises `OSError`.

    `told` hears the size of every block that was read, and may raise to stop.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            told(len(block))
    return digest.hexdigest()
