"""Addresses of a PACS: how they are read, and that they carry no login and no patient."""

import pytest
from SpatialARAnomalyLib.engine.errors import PacsError
from SpatialARAnomalyLib.service.pacs.address import is_pacs_address, parse_address


def test_an_address_names_a_server_and_a_query():
    found = parse_address(
        "dicomweb://pacs.example:8443/dicom-web/?StudyInstanceUID=1.2.3&StudyDescription=MR*%20head"
    )
    assert found.url == "https://pacs.example:8443/dicom-web"
    assert found.filters == {"StudyInstanceUID": "1.2.3", "StudyDescription": "MR* head"}
    assert found.host == "pacs.example:8443"
    assert found.is_encrypted
    assert not parse_address("dicomweb+http://pacs/dicom-web").is_encrypted


@pytest.mark.parametrize("path", ["scan.nii.gz", "/data/dicomweb", "C:\\scans\\1", "http://pacs/x"])
def test_paths_are_no_addresses(path):
    assert not is_pacs_address(path)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("dicomweb://", "names no host"),
        ("dicomweb:///dicom-web", "names no host"),
        ("dicomweb://pacs:port/x", "host or port"),
        ("dicomweb://me:secret@pacs/x", "user name or password"),
        ("dicomweb://pacs/x?PatientName=Doe", "'PatientName'"),
        ("dicomweb://pacs/x?StudyInstanceUID=", "StudyInstanceUID"),
        ("dicomweb://pacs/x?StudyInstanceUID=../1", "StudyInstanceUID"),
        ("dicomweb://pacs/x?StudyDate=today", "StudyDate"),
        ("dicomweb://pacs/x?Modality=PT", "Modality"),
        ("dicomweb://pacs/x?Modality=MR&Modality=CT", "Modality"),
    ],
)
def test_an_invalid_address_is_refused_by_its_reason(address, says):
    with pytest.raises(PacsError, match=says) as refused:
        parse_address(address)
    assert refused.value.code == "pacs-address"
    assert "secret" not in str(refused.value)
    assert "Doe" not in str(refused.value)
