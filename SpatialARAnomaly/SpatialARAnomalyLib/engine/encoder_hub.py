"""Weights from the Hugging Face hub: its local cache first, the network only when allowed."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import EncoderError
from .weight_folder import CONFIGURATION, INDEX, WEIGHTS, shard_names

UNGATED_ID = "timm/vit_small_patch16_dinov3.lvd1689m"
"""The ViT-S weights without a gate; the license is the same."""


def hub_folder(hub_id: str, *, allow_download: bool) -> Path:
    """The cache folder with the weights and the configuration; its name is the commit.

    Raises `EncoderError`: `encoder-not-local`, `encoder-gated`, `encoder-missing`,
    `encoder-offline`, `encoder-cache`.
    """
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
    except Exception as error:
        raise EncoderError(
            "encoder-software",
            "Weights from the hub need the package huggingface_hub; it cannot be imported "
            f"({type(error).__name__}).",
            'Install it: pip install "spatial-ar-anomaly[torch]".',
        ) from error

    # hf_hub_download asks its server for other things even with local_files_only
    # (huggingface_hub 2.4); this only looks at the disk.
    def cached(name: str) -> Path | None:
        path = try_to_load_from_cache(hub_id, name)
        return Path(path) if isinstance(path, str) and Path(path).is_file() else None

    def downloaded(name: str) -> Path:
        return Path(hf_hub_download(hub_id, name))

    try:
        folder = _cached_folder(cached)
        if folder is not None:
            return folder
        if allow_download:
            return _downloaded_folder(downloaded)
    except EncoderError:
        raise
    # The hub's package passes on the exceptions of whichever HTTP client it uses.
    except Exception as error:
        raise _explained(error, hub_id) from error
    raise EncoderError(
        "encoder-not-local",
        f"The weights of '{hub_id}' are not on this machine, and nothing is downloaded "
        "without permission.",
        _exits("Allow the download (--allow-download)"),
    )


def _cached_folder(cached: Callable[[str], Path | None]) -> Path | None:
    configuration = cached(CONFIGURATION)
    if configuration is None:
        return None
    names = [WEIGHTS]
    if cached(WEIGHTS) is None:
        index = cached(INDEX)
        names = [INDEX] if index is None else shard_names(index)
    return configuration.parent if all(cached(name) for name in names) else None


def _downloaded_folder(downloaded: Callable[[str], Path]) -> Path:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    folder = downloaded(CONFIGURATION).parent
    try:
        downloaded(WEIGHTS)
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise  # no connection, which says nothing about the file
        for name in shard_names(downloaded(INDEX)):
            downloaded(name)
    return folder


def _explained(error: BaseException, hub_id: str) -> EncoderError:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    causes = list(_causes(error))
    refused = any(
        getattr(getattr(cause, "response", None), "status_code", None) == 403 for cause in causes
    )
    if refused or any(isinstance(cause, GatedRepoError) for cause in causes):
        return EncoderError(
            "encoder-gated",
            f"The hub gives '{hub_id}' only to accounts that were granted access.",
            _exits(
                "Ask for access on its page, log in (hf auth login, or HF_TOKEN) and allow the "
                "download again (--allow-download)"
            ),
        )
    if any(isinstance(cause, (RepositoryNotFoundError, HFValidationError)) for cause in causes):
        return EncoderError(
            "encoder-missing",
            f"The hub has no '{hub_id}', or it is private.",
            f"Check the id; the ungated DINOv3 ViT-S is '{UNGATED_ID}'.",
        )
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return EncoderError(
            "encoder-missing",
            f"The hub's '{hub_id}' lacks {CONFIGURATION}, {WEIGHTS} or {INDEX}.",
            "Choose weights as transformers or timm publish them, in .safetensors files.",
        )
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EACCES,
            errno.EROFS,
        ):
            return EncoderError(
                "encoder-cache",
                f"The weights of '{hub_id}' cannot be stored in the hub's cache folder: "
                f"{errno.errorcode[cause.errno]}.",
                "Make room there, or set HF_HOME to a folder that can be written.",
            )
    return EncoderError(
        "encoder-offline",
        f"The hub could not be reached for '{hub_id}', or the connection broke off "
        f"({type(causes[-1]).__name__}).",
        "Check the connection, the proxy and HF_HUB_OFFLINE, or give a local folder or "
        ".safetensors file.",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and those it came from: a refusal arrives wrapped in others."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _exits(first: str) -> str:
    return (
        f"{first}; or give a local folder or .safetensors file; or use the ungated '{UNGATED_ID}'."
    )
