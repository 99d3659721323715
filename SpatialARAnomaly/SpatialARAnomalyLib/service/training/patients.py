"""Patients of normal scans: a training holds out patients, so scans of one must be known as such.

The first of these rules that tells a scan's patient counts:

1. `table`: the column `patient` of the table that names the scan.
2. `DICOM`: the Patient ID (0010,0020), compared by a salted hash. An ID that more than
   `MAX_SCANS` usable scans share belongs to no patient: anonymized exports give all the same one.
3. `folder`: the highest folder below the searched one that holds at most `MAX_SCANS` usable
   scans. Scans that lie in the searched folder itself, or in larger folders, are not grouped.
4. `single`: otherwise every scan is a patient of its own.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from SpatialARAnomalyLib.service.training.candidates import Candidate

MAX_SCANS = 10
"""Most scans of one patient; an ID or a folder with more of them is that of a collection."""


def name_patients(used: Sequence[Candidate]) -> None:
    """Set the patient of every usable scan, as the rule and a number (`ScanSource.patient`)."""
    unknown = [one for one in used if one.source.patient is None]
    groups: list[tuple[str, list[Candidate]]] = []
    by_id: dict[str, list[Candidate]] = defaultdict(list)
    for one in unknown:
        if one.scan is not None and one.scan.patient_hash is not None:
            by_id[one.scan.patient_hash].append(one)
    groups += [("DICOM", scans) for scans in by_id.values() if len(scans) <= MAX_SCANS]
    with_id = {id(one) for _, scans in groups for one in scans}
    groups += _by_folder([one for one in unknown if id(one) not in with_id], 1)
    numbers: dict[str, int] = defaultdict(int)
    for rule, scans in groups:
        numbers[rule] += 1
        for one in scans:
            one.source = replace(one.source, patient=f"{rule} {numbers[rule]}")
    for one in used:
        if one.scan is not None:
            one.scan = replace(one.scan, source=one.source)


def _by_folder(scans: Sequence[Candidate], depth: int) -> list[tuple[str, list[Candidate]]]:
    """Group scans by the folder `depth` levels below the searched one, or by deeper ones."""
    inside: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    groups: list[tuple[str, list[Candidate]]] = []
    for one in scans:
        if len(one.folders) > depth:
            inside[one.folders[: depth + 1]].append(one)
        else:
            groups.append(("single", [one]))
    for below in inside.values():
        groups += [("folder", below)] if len(below) <= MAX_SCANS else _by_folder(below, depth + 1)
    return groups
