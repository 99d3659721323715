"""A small head as a DICOM series, with a bright lesion and a private note."""

from pathlib import Path

import numpy as np
from engine.dicom_examples import Series
from pydicom.uid import MRImageStorage
from service.small_site import SHAPE_KJI, SPACING_MM
from SpatialARAnomalyLib.service.demo.phantom import normal_head

PRIVATE = "SECRET NOTE"
"""What must not leave the scan's own headers."""


def dicom_head(folder: Path, seed: int = 5, **attributes: object) -> Path:
    """Write the head, turned by 0.2 rad about its axis."""
    head = normal_head(seed, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
    voxels = head.voxels.astype(np.float32)
    voxels[2:4, 20:28, 22:30] *= 1.6
    cosine, sine = np.cos(0.2), np.sin(0.2)
    series = Series(
        stored=np.round(voxels * 1000 / voxels.max()).astype("u2"),
        orientation=(cosine, sine, 0.0, -sine, cosine, 0.0),
        step=(0.0, 0.0, SPACING_MM[2]),
        pixel_spacing=SPACING_MM[:2],
        uid=f"1.2.826.0.1.3680043.8.498.7{seed}",
        attributes={
            "Modality": "MR",
            "SOPClassUID": MRImageStorage,
            "StudyInstanceUID": f"1.2.826.0.1.3680043.8.498.8{seed}",
            "FrameOfReferenceUID": f"1.2.826.0.1.3680043.8.498.9{seed}",
            "SpecificCharacterSet": "ISO_IR 100",
            "PatientName": "Müller^Änne",
            "PatientID": "P-17",
            "PatientBirthDate": "19510203",
            "PatientSex": "F",
            "StudyDate": "20261130",
            "StudyTime": "101500",
            "StudyID": "S1",
            "AccessionNumber": "A-9",
            "BodyPartExamined": "HEAD",
            "PatientComments": PRIVATE,
            "InstitutionName": PRIVATE,
            "OperatorsName": PRIVATE,
            **attributes,
        },
    )
    return series.write(folder)
