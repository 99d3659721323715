"""The encoders that a training can be begun with on this machine."""

import os
from pathlib import Path

from slicer.i18n import tr as _

from ..engine.encoder_card import DEMONSTRATION

UNGATED_ID = "timm/vit_small_patch16_dinov3.lvd1689m"
"""The smallest DINOv3, whose weights anybody may fetch."""

OWN_FILES = ""
"""Chosen where the encoder is a folder or file of the user's."""


def encoderChoices() -> list[tuple[str, str]]:
    """What to show and the source that the worker takes, for every encoder there is."""
    choices = [(_("Demonstration (quick, untrained)"), DEMONSTRATION)]
    if _isOnThisMachine(UNGATED_ID):
        choices.append((_("DINOv3 ViT-S/16"), UNGATED_ID))
    choices.append((_("A folder or file of DINOv3 weights"), OWN_FILES))
    return choices


def _isOnThisMachine(hubId: str) -> bool:
    """Whether the hub's cache has weights of that id; the worker checks them."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    folder = cache / f"models--{hubId.replace('/', '--')}" / "snapshots"
    try:
        return any(folder.glob("*/model.safetensors*"))
    except OSError:
        return False
