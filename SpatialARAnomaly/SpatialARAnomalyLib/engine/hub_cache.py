"""Where the Hugging Face hub's own programs keep what they fetched on this machine.

    models--owner--name/
      refs/main                the commit that was fetched last
      snapshots/<commit>/…     the files under their names: links to blobs
      blobs/<hash>             their content

The folder is shared with them: what one fetched, the others find. Nothing here
needs a network or a package of others.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from .weight_folder import PICKLES, weight_files

_PREFIX = "models--"

PARTIAL_SUFFIX = ".spatial-ar.incomplete"
"""Ends the name of a file that has not all arrived; the hub's own programs leave it alone."""


def is_hub_id(source: str) -> bool:
    """Whether this may be a hub id, `owner/name`; a path that exists wins over one."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", source)) and not looks_like_path(source)


def looks_like_path(source: str) -> bool:
    """Whether this can only be a path: the hub is not asked for what is on no disk."""
    return (
        os.path.isabs(source)
        or PureWindowsPath(source).is_absolute()
        or "\\" in source
        or source.startswith((".", "~"))
        or source.lower().endswith((".safetensors", *PICKLES))
        or source.count("/") > 1
    )


def hub_home() -> Path:
    """The folder of the hub's settings and cache (`HF_HOME`), which need not exist."""
    home = os.environ.get("HF_HOME")
    if home:
        return Path(os.path.expandvars(home)).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.path.expandvars(caches)).expanduser() / "huggingface"


def cache_folder() -> Path:
    """The folder of the hub's cache (`HF_HUB_CACHE`), which need not exist."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(variable):
            return Path(os.path.expandvars(folder)).expanduser()
    return hub_home() / "hub"


def repository_folder(hub_id: str) -> Path:
    """Where the cache keeps all that belongs to a hub id, which need not exist."""
    return cache_folder() / (_PREFIX + hub_id.replace("/", "--"))


def cached_folder(hub_id: str) -> Path | None:
    """The folder with the whole weights and their configuration, if the cache has them.

    Its name is the commit.
    """
    repository = repository_folder(hub_id)
    try:
        commit = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    if not re.fullmatch(r"[\w.-]+", commit) or commit in (".", ".."):
        return None
    folder = repository / "snapshots" / commit
    return folder if weight_files(folder) is not None else None


def cached_bytes(hub_id: str) -> int:
    """Bytes of the disk that the cache gives to a hub id, what has not all arrived included."""
    return sum(
        one.stat().st_size
        for one in repository_folder(hub_id).rglob("*")
        if one.is_file() and not one.is_symlink()
    )


def partial_bytes(hub_id: str) -> int:
    """Bytes of an interrupted download that the next one goes on with."""
    blobs = repository_folder(hub_id) / "blobs"
    return sum(one.stat().st_size for one in blobs.glob(f"*{PARTIAL_SUFFIX}"))


def cached_ids() -> Iterator[str]:
    """The hub ids that the cache has a folder of, whatever they are and how much of them."""
    try:
        folders = sorted(cache_folder().iterdir())
    except OSError:
        return
    for folder in folders:
        if folder.name.startswith(_PREFIX) and folder.is_dir():
            yield folder.name.removeprefix(_PREFIX).replace("--", "/", 1)
