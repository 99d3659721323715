"""The encoders that a training can be begun with on this machine."""

from slicer.i18n import tr as _

from ..engine.encoder_card import DEMONSTRATION
from ..service.encoder_catalog import known_encoder, local_encoders

OWN_FILES = ""
"""Chosen where the encoder is a folder or file of the user's."""


def encoderChoices() -> list[tuple[str, str]]:
    """What to show and the source that the worker takes, for every encoder there is."""
    choices = [(_("Demonstration (quick, for trying)"), DEMONSTRATION)]
    for local in local_encoders():
        known = known_encoder(local.source)
        title = local.title if known is None else f"DINOv3 {known.title}"
        choices.append((title, local.source))
    choices.append((_("A folder or file of DINOv3 weights"), OWN_FILES))
    return choices
