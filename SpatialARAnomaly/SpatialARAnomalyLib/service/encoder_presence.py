"""Where a model's encoder is: embedded, on this machine, to be had from the hub, or missing.

Only looks at the disk, and needs none of the packages that load an encoder.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..engine.encoder_card import DEMONSTRATION, EncoderCard
from . import encoder_registry

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)

_CONFIGURATION = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class EncoderState(StrEnum):
    """Where an encoder is."""

    EMBEDDED = "embedded"
    """Part of this program."""
    PRESENT = "present"
    """On this machine."""
    OBTAINABLE = "obtainable"
    """Not on this machine; its name is a hub id."""
    MISSING = "missing"
    """Not on this machine, and its name does not tell where it can be had."""


@dataclass(frozen=True)
class EncoderPresence:
    """Where an encoder is, and its hub id if it has one."""

    state: EncoderState
    hub_id: str | None = None

    @property
    def here(self) -> bool:
        """Whether nothing must be fetched before a model can be used."""
        return self.state in (EncoderState.EMBEDDED, EncoderState.PRESENT)


def encoder_presence(card: EncoderCard) -> EncoderPresence:
    """Where the encoder of a model is: as `load_model_encoder` would find it."""
    if card.name == DEMONSTRATION:
        return EncoderPresence(EncoderState.EMBEDDED)
    known = encoder_registry.recall(card.weights_sha256)
    hub_id = next((one for one in (known, card.name) if one and is_hub_id(one)), None)
    if known is not None and Path(known).is_absolute():
        return EncoderPresence(EncoderState.PRESENT, hub_id)
    if hub_id is None:
        return EncoderPresence(EncoderState.MISSING)
    here = in_hub_cache(hub_id, card.revision)
    return EncoderPresence(EncoderState.PRESENT if here else EncoderState.OBTAINABLE, hub_id)


def is_hub_id(name: str) -> bool:
    """Whether a name can be that of a repository of the hub."""
    return bool(_HUB_ID.fullmatch(name)) and ".." not in name and "--" not in name


def hub_cache() -> Path:
    """Where the packages of the hub keep what they fetched, as the environment says."""

    def said(name: str) -> str:
        return os.path.expandvars(os.path.expanduser(os.environ.get(name, "")))

    cache = said("HF_HUB_CACHE") or said("HUGGINGFACE_HUB_CACHE")
    if cache:
        return Path(cache)
    home = said("HF_HOME")
    if home:
        return Path(home) / "hub"
    settings = said("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(settings) / "huggingface" / "hub"


def in_hub_cache(hub_id: str, revision: str | None = None) -> bool:
    """Whether the weights of a hub id are complete in the cache, of any commit known to be right.

    These are the `revision` given, and what the cache holds as the newest.
    """
    folder = hub_cache() / f"models--{hub_id.replace('/', '--')}"
    return any(_is_complete(folder / "snapshots" / one) for one in _commits(folder, revision))


def _commits(folder: Path, revision: str | None) -> Iterator[str]:
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        yield revision
    try:
        newest = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return
    if re.fullmatch(r"\w+", newest):
        yield newest


def _is_complete(snapshot: Path) -> bool:
    def here(name: str) -> bool:
        try:
            return (snapshot / name).is_file()  # a link whose file is gone is none
        except OSError:
            return False

    if not here(_CONFIGURATION):
        return False
    return here(_WEIGHTS) or (here(_INDEX) and all(map(here, _shards(snapshot / _INDEX))))


def _shards(index: Path) -> list[str]:
    """The weight files that an index names; one that cannot be there if it names none."""
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if named and all(isinstance(one, str) and Path(one).name == one for one in named):
            return sorted(named)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    return [""]
