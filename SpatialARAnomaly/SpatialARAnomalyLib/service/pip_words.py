"""What pip's words mean for the user."""

from collections.abc import Iterable

_CAUSES = (
    (
        ("ResolutionImpossible", "conflicting dependencies", "user requested (constraint)"),
        "pip-conflict",
        "A package needs other versions than Slicer has, which are kept as they are.",
        "Update Slicer or the extension; the log names the package.",
    ),
    (
        ("No space left", "Errno 28", "not enough space"),
        "pip-disk",
        "The disk is full.",
        "Free some room and try again.",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED", "SSLError", "SSLCertVerificationError"),
        "pip-certificate",
        "The package index could not be trusted: its certificate was refused.",
        "Behind a proxy that inspects traffic, set PIP_CERT to the site's certificates.",
    ),
    (
        (
            "ProxyError",
            "NewConnectionError",
            "ConnectTimeoutError",
            "ReadTimeoutError",
            "Temporary failure in name resolution",
            "getaddrinfo failed",
        ),
        "pip-network",
        "The package index could not be reached.",
        "Check the connection and the proxy (HTTPS_PROXY), or use Install from folder.",
    ),
    (
        ("No matching distribution", "Could not find a version"),
        "pip-no-version",
        "A package has no version for this system and Python.",
        "The log names it.",
    ),
    (
        ("Permission denied", "Access is denied", "WinError 5", "Read-only file system"),
        "pip-permission",
        "Slicer's folder cannot be written.",
        "Start Slicer as a user who may, or install Slicer into a folder of your own.",
    ),
)


def cause_of_failure(lines: Iterable[str]) -> tuple[str, str, str]:
    """A code, what happened and what to do, of what pip said before it failed."""
    said = "\n".join(lines)
    for words, code, text, hint in _CAUSES:
        if any(word in said for word in words):
            return code, text, hint
    return "pip-failed", "pip could not install the packages.", "The log tells more."
