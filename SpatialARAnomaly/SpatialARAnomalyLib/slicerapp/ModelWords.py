"""What the models' table says of a model, in the user's words."""

from slicer.i18n import tr as _

from ..engine.errors import SpatialARError
from ..service.encoder_presence import EncoderState
from ..service.model_list import ModelRow
from .ErrorWords import inOneLine
from .ModelsView import ENCODER, NAME, STATE, ShownModel

MB = 1e6


def shownModel(row: ModelRow, *, verified: bool, damage: SpatialARError | None) -> ShownModel:
    """The model's cells; `verified` and `damage` are what a look at its weights told."""
    state, reason = stateOf(row, verified=verified, damage=damage)
    encoder = row.encoder or ""
    tip = encoder
    if _isAway(row):
        encoder = _("{name} (not on this machine)").format(name=row.encoder)
        tip = howToGetEncoder(row)
    return ShownModel(
        key=row.file,
        cells=(
            row.name,
            state,
            row.modality or "",
            row.plane or "",
            row.fov_mm if row.fov_mm is not None else "",
            row.normals if row.normals is not None else "",
            row.created or "",
            round(row.bytes / MB, 1),
            encoder,
        ),
        tips={NAME: "\n".join(dict.fromkeys((row.name, row.file))), STATE: reason, ENCODER: tip},
    )


def stateOf(row: ModelRow, *, verified: bool, damage: SpatialARError | None) -> tuple[str, str]:
    """Whether a model can be used, in a word or two, and why."""
    if row.problem is not None:
        reason = f"{row.problem} {row.hint or ''}".strip()
        return _("⚠ cannot be used"), reason
    if damage is not None:
        return _("⚠ cannot be used"), inOneLine(damage)
    if _isAway(row):
        return _("encoder missing"), howToGetEncoder(row)
    if verified:
        return _("✓ verified"), _("Complete, and as it was trained.")
    return _("✓"), _("Its card is as it was written. Verify checks its weights, too.")


def _isAway(row: ModelRow) -> bool:
    return row.presence is not None and not row.presence.here


def howToGetEncoder(row: ModelRow) -> str:
    """How the encoder of a model comes to this machine; empty where it is here."""
    if row.encoder_state is EncoderState.OBTAINABLE:
        return _(
            "The encoder {id} is not on this machine. Get it from the Hugging Face hub under "
            "Encoders, or copy it from another machine and add its folder or file there."
        ).format(id=row.encoder_hub_id)
    if row.encoder_state is EncoderState.MISSING:
        return _(
            "The encoder {name} is not on this machine, and its name does not tell where to get "
            "it. Copy it from where the model was trained, and add its folder or file under "
            "Encoders."
        ).format(name=row.encoder)
    return ""
