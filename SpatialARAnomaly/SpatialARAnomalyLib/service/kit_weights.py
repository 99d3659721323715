"""Weights of a kit: from the hub's cache of one machine into that of another."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..engine.atomic_files import PARTIAL_PREFIX, sync, unwritable
from ..engine.encoder_card import DINOV3_NOTICE
from ..engine.errors import EncoderError
from ..engine.progress import Reporter
from . import encoder_registry
from .encoder_hub import is_hub_id, publish_commit, repository_folder
from .encoder_license import license_file
from .encoder_loading import hub_folder, load_encoder
from .kit_manifest import ENCODERS, KitEncoder, KitManifest, is_left_by_system

LICENSES = ("LICENSE", "LICENSE.txt", "README.md")
"""Under which names more on a license, or the card that tells it, lies beside weights."""


def _is_wanted(name: str) -> bool:
    """Weights, configuration and license: the names that are read, and no others."""
    return name in LICENSES or name.endswith((".safetensors", ".json"))


def copy_weights(hub_id: str, kit: Path, *, allow_download: bool) -> KitEncoder:
    """Copy weights, configuration and license into a kit; what is there already stays.

    Raises `EncoderError` where the hub's cache has none of them and they cannot be
    fetched, or may not before the license was accepted.
    """
    if not is_hub_id(hub_id):
        raise EncoderError(
            "encoder-missing",
            f"A kit takes weights of the hub; '{hub_id}' is no hub id.",
            "Give an id such as timm/vit_small_patch16_dinov3.lvd1689m.",
        )
    source = hub_folder(hub_id, allow_download=allow_download)
    target = kit / ENCODERS / f"{hub_id.replace('/', '--')}--{source.name[:12]}"
    target.mkdir(parents=True, exist_ok=True)
    (target / "NOTICE.txt").write_text(
        f"{hub_id}\nhttps://huggingface.co/{hub_id}\n\n{DINOV3_NOTICE}\n", encoding="utf-8"
    )
    # What is passed on comes with its license, which the cache need not have.
    shutil.copyfile(license_file(), target / "LICENSE.md")
    for file in source.iterdir():
        copied = target / file.name
        size = file.stat().st_size
        if _is_wanted(file.name) and not (copied.is_file() and copied.stat().st_size == size):
            partial = copied.with_name(f"{copied.name}.tmp")
            shutil.copyfile(file, partial)  # of what a link in the cache leads to
            os.replace(partial, copied)
    return KitEncoder(
        hub_id=hub_id, revision=source.name, folder=target.relative_to(kit).as_posix()
    )


def install_weights(kit: Path, manifest: KitManifest, report: Reporter) -> tuple[str, ...]:
    """Put a kit's weights into the hub's cache of this machine and load each; their hub ids.

    The kit must have been verified. Afterwards an id is found without a
    network, and a model trained on these weights finds them. Raises
    `EncoderError` for weights that cannot be loaded, `OutputError` where they
    cannot be stored.
    """
    from ..engine.device import Device, resolve_device

    device = resolve_device(Device.CPU)
    report.stage("weights", 1, 1)
    for number, encoder in enumerate(manifest.encoders):
        report.progress(number, len(manifest.encoders), "encoder")
        report.check_cancelled()
        try:
            _into_cache(kit / encoder.folder, encoder)
        except OSError as error:
            raise unwritable(
                "The weights cannot be stored in the hub's cache folder",
                error,
                "Make room there, or set HF_HOME to a folder that can be written.",
            ) from error
        loaded = load_encoder(encoder.hub_id, device=device, allow_download=False)
        encoder_registry.remember(loaded.card.weights_sha256, encoder.hub_id)
    report.progress(len(manifest.encoders), len(manifest.encoders), "encoder")
    return tuple(encoder.hub_id for encoder in manifest.encoders)


def _into_cache(source: Path, encoder: KitEncoder) -> None:
    """Copy into the cache as the hub's programs lay it out; the reference to it comes last."""
    repository = repository_folder(encoder.hub_id)
    snapshot = repository / "snapshots" / encoder.revision
    snapshot.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=repository) as work:
        for file in _files(source):
            if not (snapshot / file.name).exists():
                copied = Path(work) / file.name
                shutil.copyfile(file, copied)
                sync(copied)
                os.replace(copied, snapshot / file.name)
    publish_commit(encoder.hub_id, encoder.revision)


def _files(folder: Path) -> Iterator[Path]:
    return (
        file for file in folder.iterdir() if file.is_file() and not is_left_by_system(file.name)
    )
