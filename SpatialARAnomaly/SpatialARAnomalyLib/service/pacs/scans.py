"""A scan from a PACS: fetched into a private folder for one detection, and its results stored."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import PacsError
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.service.detection.dicom_results import DICOM_KINDS
from SpatialARAnomalyLib.service.pacs.client import Pacs, PacsSeries


@contextmanager
def fetched_scan(pacs: Pacs, series: str | None, report: Reporter) -> Iterator[Path]:
    """Fetch the series that the address of the PACS means; yield a folder that holds them.

    The folder has the UID of the series, or of their study, as its name. Only this user may read
    it, and it is removed at the end.

    Args:
        pacs: The server.
        series: Number or UID of one of the series; None for all of the study.
        report: Receives the progress.

    Raises:
        PacsError: The server cannot be reached, or does not have them, or they are of several
            studies.
    """
    report.stage("fetch", 1, 1)
    found = pacs.find_series()
    chosen = [one for one in found if series in (None, one.uid, str(one.number))]
    if not chosen:
        raise PacsError(
            "pacs-no-scan", f"No series has the number or UID {series}; there are {_list(found)}."
        )
    if len({one.study for one in chosen}) > 1:
        raise PacsError(
            "pacs-several",
            f"Expected one study; the query finds {len({one.study for one in chosen})}: "
            f"{_list(chosen)}.",
        )
    with tempfile.TemporaryDirectory(prefix="spatial-ar-anomaly-") as private:
        top = Path(private) / (chosen[0].uid if len(chosen) == 1 else chosen[0].study)
        for one in chosen:
            pacs.fetch(one, top / one.uid)
        yield top


def _list(series: list[PacsSeries]) -> str:
    named = [f"{one.modality} {one.number}, {one.images} images ({one.uid})" for one in series[:5]]
    return "; ".join(named + ["…"] * (len(series) > 5))


def store_results(pacs: Pacs, files: Mapping[str, Path], report: Reporter) -> dict[str, int]:
    """Store the DICOM results among the files (by kind); return the numbers of new and known ones.

    They are stored one by one, the report that refers to the others last.
    """
    report.stage("store", 1, 1)
    new, known = pacs.store([files[kind] for kind in DICOM_KINDS if kind in files])
    text = f"Results stored in the PACS: {new}."
    if known:
        text += f" It had {known} already, which stay as they are."
    report.notice("pacs-stored", text)
    return {"stored": new, "known": known}
