"""Names of models: they are names of files too, on every system that a model may travel to."""

import unicodedata
from collections.abc import Collection

from SpatialARAnomalyLib.engine.errors import ModelError
from SpatialARAnomalyLib.engine.model.model_file import SUFFIX

LONGEST = 80
"""Characters of a name."""
LONGEST_BYTES = 200
"""Bytes of a name in UTF-8: file systems take 255, suffix included."""

SEPARATORS = '/\\:*?"<>|'
"""What a file name must not hold on Windows."""

RESERVED = {
    "con", "prn", "aux", "nul", "conin$", "conout$",
    *(f"{device}{number}" for device in ("com", "lpt") for number in "0123456789¹²³"),
}  # fmt: skip
"""Windows has devices of these names, with whatever extension."""

TRAINING_SUFFIX = ".training"
"""Ends the names of the folders of unfinished trainings."""


def why_not(name: str) -> str | None:
    """What is wrong with a name, as the end of "A model's name must …"; None for a good one."""
    if not name.strip():
        return "not be empty"
    if len(name) > LONGEST or len(name.encode("utf-8", "surrogatepass")) > LONGEST_BYTES:
        return f"have at most {LONGEST} characters ({LONGEST_BYTES} bytes in UTF-8)"
    if any(_is_control(one) for one in name):
        return "not hold control characters"
    if any(one in SEPARATORS for one in name):
        return f"hold none of {' '.join(SEPARATORS)}"
    if name != name.strip() or name.endswith(".") or name.startswith("."):
        return "neither begin nor end with a space or a point"
    if name.split(".")[0].strip().casefold() in RESERVED:
        return "not be one that Windows keeps for a device"
    for suffix in (TRAINING_SUFFIX, SUFFIX):
        if name.casefold().endswith(suffix):
            return f"not end with {suffix}"
    return None


def check_name(name: str) -> None:
    """Raise `ModelError` for a name that a model cannot have."""
    problem = why_not(name)
    if problem is not None:
        raise ModelError("model-name", f"A model's name must {problem}.", "Choose another name.")


def fitting(name: str) -> str:
    """The name itself if a model can have it, else one as near to it as can be."""
    if why_not(name) is None:
        return name
    kept = "".join("_" if _is_control(one) or one in SEPARATORS else one for one in name)
    kept = _shortened(kept.strip().strip(".").strip(), 0)
    if why_not(kept) is not None:
        kept = _shortened(f"model {kept}".replace(".", "_").strip(), 0)
    return kept if why_not(kept) is None else "model"


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or where it is taken the name with the first number that is not.

    `taken` holds names as `as_compared` makes them.
    """
    number, free = 1, name
    while as_compared(free) in taken:
        number += 1
        ending = f" ({number})"
        free = _shortened(name, len(ending)) + ending
    return free


def as_compared(name: str) -> str:
    """What two names share that are the same to a person or to a file system."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _is_control(one: str) -> bool:
    # Format characters may turn what follows around; two of them belong to scripts.
    kind = unicodedata.category(one)
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and one not in "\u200c\u200d")


def _shortened(name: str, by: int) -> str:
    """The beginning of a name that leaves `by` characters free."""
    name = name[: LONGEST - by]
    while len(name.encode("utf-8")) > LONGEST_BYTES - by:
        name = name[:-1]
    return name.rstrip(" .")
