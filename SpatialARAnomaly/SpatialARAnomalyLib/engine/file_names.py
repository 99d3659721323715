"""Names of files that every system can hold, so that results and models may travel.

Windows reserves the names of devices, with any extension, and strips points and spaces at the
end; it and macOS do not tell upper from lower case.
"""

import os
import unicodedata

MAX_NAME_BYTES = 255
"""Longest name of a file on the usual disks."""

SEPARATORS = '/\\:*?"<>|'
"""Characters that a file name must not hold on Windows."""

RESERVED = {
    "con", "prn", "aux", "nul", "conin$", "conout$",
    *(f"{device}{number}" for device in ("com", "lpt") for number in "0123456789¹²³"),
}  # fmt: skip
"""Names of Windows' devices, which it reserves with any extension."""


def file_name_problem(name: str) -> str | None:
    """Return what is wrong with a name, to follow "The name must"; None for a valid one."""
    if not name.strip():
        return "not be empty"
    if any(_is_control(one) for one in name):
        return "not hold control characters"
    if any(one in SEPARATORS for one in name):
        return f"hold none of {' '.join(SEPARATORS)}"
    if name != name.strip() or name.endswith(".") or name.startswith("."):
        return "neither begin nor end with a space or a point"
    if _is_reserved(name):
        return "not be one that Windows reserves for a device"
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        return f"have at most {MAX_NAME_BYTES} bytes"
    return None


def make_file_name(name: str, empty: str = "scan") -> str:
    """Return the name with what some system cannot hold replaced; its length stays.

    `empty` is the name where nothing is left.
    """
    kept = "".join("_" if _is_control(one) or one in SEPARATORS else one for one in name)
    while kept != (less := kept.strip().strip(".")):
        kept = less
    kept = kept or empty
    if _is_reserved(kept):
        device, point, rest = kept.partition(".")
        kept = f"{device.strip()}_{point}{rest}"
    return kept


def comparable(name: str) -> str:
    """Return a form that is equal for names which people or file systems take for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _is_reserved(name: str) -> bool:
    return name.split(".")[0].strip().casefold() in RESERVED


def _is_control(one: str) -> bool:
    # Format characters may reverse the text that follows; two of them belong to scripts.
    kind = unicodedata.category(one)
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and one not in "\u200c\u200d")
