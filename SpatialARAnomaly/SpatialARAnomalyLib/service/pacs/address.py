"""Addresses of series in a PACS: `dicomweb://host:port/path?StudyInstanceUID=…`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from SpatialARAnomalyLib.engine.errors import PacsError
from SpatialARAnomalyLib.engine.specs import Modality

SCHEMES = {"dicomweb": "https", "dicomweb+http": "http"}
"""Schemes of addresses, and how the server is spoken to."""

EVERY_S = 300
"""Seconds from one query of a watch to the next."""

_UID = re.compile(r"[0-9][0-9.]{0,63}")
_DATES = re.compile(r"\d{8}|\d{8}-|-\d{8}|\d{8}-\d{8}")

KEYS = {
    "StudyInstanceUID": _UID,
    "SeriesInstanceUID": _UID,
    "Modality": re.compile("|".join(Modality)),
    "StudyDate": _DATES,
    "BodyPartExamined": None,
    "StudyDescription": None,
    "SeriesDescription": None,
}
"""Attributes that a query may name, with the form of their values; texts may hold `*` and `?`.

None names a patient: command lines are seen by other users of a machine.
"""


@dataclass(frozen=True, kw_only=True)
class PacsAddress:
    """A DICOMweb server, and which of its series are meant."""

    url: str
    """Root of the service, such as `https://pacs.example:8443/dicom-web`."""
    filters: Mapping[str, str]
    """Values by the keyword of their attribute, for QIDO."""

    @property
    def host(self) -> str:
        """`host:port` of the server, or the host alone."""
        return urlsplit(self.url).netloc

    @property
    def is_encrypted(self) -> bool:
        """True for TLS."""
        return self.url.startswith("https:")


def is_pacs_address(text: str) -> bool:
    """Return True if an input is an address in a PACS, and no path."""
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def is_uid(text: str) -> bool:
    """Return True for a UID, which can name a folder, too."""
    return _UID.fullmatch(text) is not None


def parse_address(text: str) -> PacsAddress:
    """Return the server and query of an address; raises `PacsError` for an invalid one."""

    def invalid(reason: str) -> PacsError:
        return PacsError(
            "pacs-address",
            f"Expected an address such as dicomweb://host:port/path?StudyInstanceUID=…; {reason}.",
        )

    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise invalid("its host or port is not valid") from None
    if parts.username is not None or parts.password is not None:
        raise invalid("this one holds a user name or password, which every user here could see")
    if not host:
        raise invalid("this one names no host")
    filters: dict[str, str] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key not in KEYS:
            raise invalid(f"a query may name {', '.join(KEYS)}, found {key!r}")
        form = KEYS[key]
        if not value or key in filters or (form is not None and not form.fullmatch(value)):
            raise invalid(f"the value of {key} is missing, not valid or there twice")
        filters[key] = value
    url = f"{SCHEMES[parts.scheme]}://{parts.netloc}{parts.path.rstrip('/')}"
    return PacsAddress(url=url, filters=filters)
