"""A PACS over DICOMweb: finding series (QIDO), fetching (WADO) and storing (STOW)."""

import logging
import os
import ssl
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.errors import InvalidDicomError

from SpatialARAnomalyLib.engine.errors import PacsError
from SpatialARAnomalyLib.engine.files import unwritable
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import Modality
from SpatialARAnomalyLib.service.detection.dicom_source import require_dicom_packages
from SpatialARAnomalyLib.service.pacs.address import PacsAddress, is_uid
from SpatialARAnomalyLib.service.pacs.errors import TIMEOUT_S, pacs_error, translated

USER, PASSWORD, TOKEN = (f"SPATIAL_AR_ANOMALY_PACS_{one}" for one in ("USER", "PASSWORD", "TOKEN"))
"""Environment variables of the login. Without them, that of the user's netrc file is taken."""

PAGE = 500
"""Results that are asked for at once; a server may send fewer."""


@dataclass(frozen=True, kw_only=True)
class PacsSeries:
    """A series that a query found."""

    study: str
    """Study Instance UID."""
    uid: str
    """Series Instance UID."""
    number: int | None
    modality: str
    images: int
    """Number of its images at the time of the query; 0 if the server does not tell."""


class Pacs:
    """A DICOMweb server.

    Every method raises `PacsError` where the server cannot be reached or refuses.
    """

    def __init__(self, address: PacsAddress, report: Reporter) -> None:
        require_dicom_packages()
        from dicomweb_client import DICOMwebClient

        self._address = address
        self._report = report
        for name in ("dicomweb_client", "retrying"):  # their log lines hold UIDs
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self._client = DICOMwebClient(
            address.url, _session(), permissive_uid=True, timeout=TIMEOUT_S
        )
        self._client.set_http_retry_params(retry=False)
        if not address.is_encrypted:
            text = f"The connection to '{address.host}' is not encrypted (dicomweb+http)."
            report.notice("pacs-plain", text)

    def find_series(self) -> list[PacsSeries]:
        """Return the MR and CT series of the address's query, in the order of their UIDs.

        Raises `PacsError` "pacs-no-scan" where there are none.
        """
        filters = dict(self._address.filters)
        study = filters.pop("StudyInstanceUID", None)
        rows = self._search(
            "SeriesInstanceUID",
            lambda page: self._client.search_for_series(
                study,
                fields=["NumberOfSeriesRelatedInstances", "StudyInstanceUID"],
                search_filters=filters,
                **page,
            ),
        )
        found = [
            PacsSeries(
                study=_text(row, "StudyInstanceUID") or study or "",
                uid=uid,
                number=_integer(row, "SeriesNumber"),
                modality=_text(row, "Modality"),
                images=_integer(row, "NumberOfSeriesRelatedInstances") or 0,
            )
            for uid, row in sorted(rows.items())
        ]
        if not all(is_uid(uid) for one in found for uid in (one.study, one.uid)):
            raise pacs_error("pacs-not-dicomweb", self._address.host)
        scans = [one for one in found if one.modality in set(Modality)]
        if not scans:
            other = f", but {len(found)} of other modalities" if found else ""
            raise PacsError(
                "pacs-no-scan",
                f"Expected MR or CT series at '{self._address.host}'; the query finds none{other}.",
            )
        return scans

    def list_images(self, study: str, series: str) -> set[str]:
        """Return the SOP Instance UIDs of a series; empty if there is no such series."""
        try:
            rows = self._search(
                "SOPInstanceUID",
                lambda page: self._client.search_for_instances(study, series, **page),
            )
        except PacsError as error:
            if error.code != "pacs-not-found":
                raise
            return set()
        return set(rows)

    def fetch(self, series: PacsSeries, folder: Path) -> int:
        """Fetch the images of a series into a new folder, one file each; return their number.

        Raises `PacsError` "pacs-incomplete" where fewer arrive than the server lists, and
        `OutputError` where the disk is full.
        """
        wanted = self.list_images(series.study, series.uid)
        got: set[str] = set()
        try:
            folder.mkdir(parents=True)
            with translated(self._address.host), warnings.catch_warnings(action="ignore"):
                for image in self._client.iter_series(
                    series.study, series.uid, media_types=(("application/dicom", "*"),)
                ):
                    self._report.check_cancelled()
                    image.save_as(folder / f"{len(got):06d}.dcm")
                    got.add(str(image.get("SOPInstanceUID", "")))
                    self._report.progress(min(len(got), len(wanted)), len(wanted), "image")
        except OSError as error:
            raise unwritable("The images cannot be kept in the temporary folder", error) from None
        except EOFError:  # an image that ends early
            raise pacs_error("pacs-cut", self._address.host) from None
        except (ValueError, KeyError, InvalidDicomError):  # no images in several parts
            raise pacs_error("pacs-not-dicomweb", self._address.host) from None
        if missing := wanted - got:
            raise PacsError(
                "pacs-incomplete",
                f"'{self._address.host}' lists {len(wanted)} images of the series and sent "
                f"{len(wanted) - len(missing)}.",
            )
        return len(got)

    def store(self, files: Sequence[Path]) -> tuple[int, int]:
        """Store DICOM files one after the other; return the numbers of new and of known ones.

        An object that the server has already is not sent again. Raises `PacsError` "pacs-store"
        where the server does not keep one.
        """
        from pydicom import dcmread

        new = known = 0
        for number, path in enumerate(files, start=1):
            self._report.check_cancelled()
            data_set = dcmread(path)
            study, uid = str(data_set.StudyInstanceUID), str(data_set.SOPInstanceUID)
            series = str(data_set.SeriesInstanceUID)
            if uid in self.list_images(study, series):
                known += 1
            else:
                self._store(data_set, study)
                if uid not in self.list_images(study, series):
                    raise self._not_kept("it does not list it afterwards")
                new += 1
            self._report.progress(number, len(files), "file")
        return new, known

    def _store(self, data_set: Any, study: str) -> None:
        with translated(self._address.host):
            try:
                answer = self._client.store_instances([data_set], study)
            except ValueError:  # JSON or XML was expected
                raise pacs_error("pacs-not-dicomweb", self._address.host) from None
        if failed := answer.get("FailedSOPSequence"):
            reason = int(failed[0].get("FailureReason", 0))
            raise self._not_kept(f"failure reason {reason:04X}H")

    def _not_kept(self, reason: str) -> PacsError:
        return PacsError("pacs-store", f"'{self._address.host}' does not keep a result ({reason}).")

    def _search(self, key: str, search: Any) -> dict[str, Any]:
        """Return all rows of a query by a UID, page by page, whatever the server's page is."""
        rows: dict[str, Any] = {}
        offset = 0
        while True:
            self._report.check_cancelled()
            with translated(self._address.host):
                page = search({"limit": PAGE, "offset": offset})
            try:
                found = {_text(row, key): row for row in page}
            except (AttributeError, KeyError, TypeError):
                raise pacs_error("pacs-not-dicomweb", self._address.host) from None
            found.pop("", None)
            if not found.keys() - rows.keys():  # the end, or a server that knows no pages
                return rows
            rows |= found
            offset += len(page)


def _session() -> Any:
    """Return a session with the login of the environment, and the system's certificates."""
    import requests
    import truststore
    from requests.adapters import HTTPAdapter

    class SystemCertificates(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            super().init_poolmanager(*arguments, ssl_context=context, **options)

    def add_token(request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {os.environ[TOKEN]}"
        return request

    session = requests.Session()
    session.mount("https://", SystemCertificates())
    if os.environ.get(TOKEN):
        session.auth = add_token
    elif os.environ.get(USER):
        session.auth = (os.environ[USER], os.environ.get(PASSWORD, ""))
    return session


def _text(row: Any, keyword: str) -> str:
    """Return an attribute of a row in the DICOM JSON model; '' if it is missing."""
    from pydicom.datadict import tag_for_keyword

    values = row.get(f"{tag_for_keyword(keyword):08X}", {}).get("Value") or [""]
    return str(values[0])


def _integer(row: Any, keyword: str) -> int | None:
    try:
        return int(float(_text(row, keyword)))
    except ValueError:
        return None
