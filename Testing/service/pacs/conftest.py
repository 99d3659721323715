from collections.abc import Iterator

import pytest
from service.pacs.orthanc import INSTALLED, PASSWORD, USER, Orthanc, running_orthanc


@pytest.fixture(scope="session")
def one_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """The server of all tests of a process."""
    if not INSTALLED:
        pytest.skip("needs Orthanc (Debian's packages orthanc and orthanc-dicomweb)")
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture
def orthanc(one_orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch) -> Orthanc:
    """The server without any study, its login in the environment, its authority trusted."""
    monkeypatch.setenv("SPATIAL_AR_ANOMALY_PACS_USER", USER)
    monkeypatch.setenv("SPATIAL_AR_ANOMALY_PACS_PASSWORD", PASSWORD)
    monkeypatch.setenv("SSL_CERT_FILE", str(one_orthanc.ca_file))
    one_orthanc.empty()
    return one_orthanc
