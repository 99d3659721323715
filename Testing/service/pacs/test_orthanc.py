"""A scan from a real PACS and its results back: once, whole, and with the right words where not."""

import json
import signal

import highdicom as hd
import numpy as np
import pydicom
import pytest
from service.dicom_site import dicom_head
from service.small_site import run, tree
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.volumes.geometry import LPS_FROM_RAS
from SpatialARAnomalyLib.service.pacs.address import parse_address
from SpatialARAnomalyLib.service.pacs.client import Pacs
from SpatialARAnomalyLib.service.scans import read_volume

pytestmark = pytest.mark.slow

SERIES = "1.2.826.0.1.3680043.8.498.75"
STUDY = "1.2.826.0.1.3680043.8.498.85"
RESULTS = {
    "SEG SpatialARAnomaly findings (research only)": 1,
    "OT SpatialARAnomaly NLL (research only)": 1,
    "OT SpatialARAnomaly review picture (research only)": 1,
    "SR SpatialARAnomaly report (research only)": 1,
}


@pytest.fixture
def scan(orthanc, tmp_path):
    """The folder of a head that the server holds."""
    folder = dicom_head(tmp_path / "scan")
    orthanc.upload(folder)
    return folder


def detect(address, site, out, *options):
    return run(
        *("detect", address, "--model", site.model, "--out", out, "--device", "cpu", "--store"),
        *("--false-positive-rate", "0.02", "--json", *options),
    )


def events(done, kind):
    return [one for one in map(json.loads, done.stdout.splitlines()) if one["event"] == kind]


def failure(done):
    assert done.exit_code == 2
    (failed,) = events(done, "failed")
    assert "correct horse" not in done.stdout + done.stderr
    return failed


def test_results_come_back_once_and_lie_on_the_scan(orthanc, scan, site, tmp_path):
    address = f"{orthanc.address}?StudyInstanceUID={STUDY}"
    first = detect(address, site, tmp_path / "out")
    assert first.exit_code == 0, first.stdout + first.stderr
    (result,) = events(first, "result")
    assert result["pacs"] == {"stored": 4, "known": 0}
    assert orthanc.holds() == {"MR thin": 6, **RESULTS}

    again = detect(address, site, tmp_path / "again")
    (result,) = events(again, "result")
    assert result["pacs"] == {"stored": 0, "known": 4}
    (stored,) = [one for one in events(again, "notice") if one["code"] == "pacs-stored"]
    assert "had 4 already" in stored["text"]
    assert orthanc.holds() == {"MR thin": 6, **RESULTS}

    back = {}
    for series in orthanc.ask("GET", "/series?expand"):
        if series["MainDicomTags"]["Modality"] in ("SEG", "SR"):
            (instance,) = series["Instances"]
            file = tmp_path / f"{series['MainDicomTags']['Modality']}.dcm"
            file.write_bytes(orthanc.download(instance))
            back[file.stem] = file
    seg = hd.seg.segread(back["SEG"])
    own = pydicom.dcmread(tmp_path / f"out/{SERIES}_seg.dcm")
    assert seg.StudyInstanceUID == STUDY
    assert np.array_equal(seg.pixel_array, own.pixel_array)
    assert {one.SOPInstanceUID for one in map(pydicom.dcmread, scan.iterdir())} >= {
        str(one[2]) for one in seg.get_source_image_uids()
    }
    grid = LPS_FROM_RAS @ read_volume(scan).ras_from_voxel
    for frame in seg.PerFrameFunctionalGroupsSequence:
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        ijk = np.linalg.inv(grid) @ [*origin, 1]
        np.testing.assert_allclose(grid @ np.rint(ijk), [*origin, 1], atol=1e-3)
    groups = hd.sr.srread(back["SR"]).content.get_volumetric_roi_measurement_groups()
    assert [one.referenced_segment.referenced_sop_instance_uid for one in groups] == [
        seg.SOPInstanceUID
    ] * seg.number_of_segments


def test_a_query_finds_a_scan_without_its_uids(orthanc, scan, site, tmp_path):
    query = "Modality=MR&StudyDate=20261101-20261231"
    done = run(
        *("detect", f"{orthanc.address}?{query}", "--model", site.model, "--name", "head"),
        *("--out", tmp_path / "out", "--device", "cpu"),
    )
    assert done.exit_code == 0, done.stderr
    assert "head_nll.nrrd" in tree(tmp_path / "out")
    assert orthanc.holds() == {"MR thin": 6}
    plain = read_volume(scan).content_sha256()
    assert json.loads((tmp_path / "out/run.json").read_text())["input"]["sha256"] == plain

    orthanc.upload(dicom_head(tmp_path / "other", seed=6))
    failed = failure(detect(f"{orthanc.address}?{query}", site, tmp_path / "two"))
    assert failed["code"] == "pacs-several"
    failed = failure(detect(f"{orthanc.address}?Modality=CT", site, tmp_path / "none"))
    assert failed["code"] == "pacs-no-scan"
    assert not (tmp_path / "two").exists()


def test_each_refusal_is_told_by_its_cause(orthanc, scan, site, tmp_path, monkeypatch):
    address = f"{orthanc.address}?StudyInstanceUID={STUDY}"

    def code(text=address):
        failed = failure(detect(text, site, tmp_path / "out"))
        assert not (tmp_path / "out").exists()
        return failed["code"], failed["text"]

    with monkeypatch.context() as patch:
        patch.setenv("SPATIAL_AR_ANOMALY_PACS_PASSWORD", "wrong")
        assert code()[0] == "pacs-login"
        patch.delenv("SPATIAL_AR_ANOMALY_PACS_USER")
        assert code()[0] == "pacs-login"
        netrc = tmp_path / "netrc"
        netrc.write_text("machine localhost login radiology password wrong-too\n")
        patch.setenv("NETRC", str(netrc))
        assert code()[0] == "pacs-login"
    with monkeypatch.context() as patch:
        patch.delenv("SSL_CERT_FILE")
        found, text = code()
        assert found == "pacs-certificate"
        assert "issuer" in text
    orthanc.proxy.certify(expired=True)
    found, text = code()
    assert found == "pacs-certificate"
    assert "expired" in text
    orthanc.proxy.certify()
    assert code(f"{orthanc.address}?StudyInstanceUID=1.2.3")[0] == "pacs-no-scan"
    assert code(address.replace("/dicom-web", "/elsewhere"))[0] == "pacs-not-found"
    assert orthanc.holds() == {"MR thin": 6}


def test_a_login_may_stand_in_netrc(orthanc, scan, tmp_path, monkeypatch):
    monkeypatch.delenv("SPATIAL_AR_ANOMALY_PACS_USER")
    netrc = tmp_path / "netrc"
    netrc.write_text('machine localhost login radiology password "correct horse"\n')
    monkeypatch.setenv("NETRC", str(netrc))
    pacs = Pacs(parse_address(orthanc.address), SilentReporter())
    assert [one.uid for one in pacs.find_series()] == [SERIES]


def test_a_server_gone_while_it_sends_leaves_nothing(orthanc, scan, site, tmp_path):
    orthanc.proxy.left = 20_000  # less than the images, more than the listing
    address = f"{orthanc.address}?SeriesInstanceUID={SERIES}"
    failed = failure(detect(address, site, tmp_path / "out"))
    # Orthanc states no length: what is missing is known by its listing.
    assert failed["code"] in ("pacs-cut", "pacs-incomplete")
    assert not (tmp_path / "out").exists()


def test_a_server_gone_while_it_stores_is_resumed(orthanc, scan, site, tmp_path):
    address = f"{orthanc.address}?SeriesInstanceUID={SERIES}"
    orthanc.proxy.cut_at = b"SpatialARAnomaly NLL"
    failed = failure(detect(address, site, tmp_path / "out"))
    assert failed["code"] == "pacs-cut"
    seg = "SEG SpatialARAnomaly findings (research only)"
    assert orthanc.holds() == {"MR thin": 6, seg: 1}

    orthanc.proxy.cut_at = None
    done = detect(address, site, tmp_path / "out", "--overwrite")
    (result,) = events(done, "result")
    assert result["pacs"] == {"stored": 3, "known": 1}
    assert orthanc.holds() == {"MR thin": 6, **RESULTS}

    orthanc.stop(signal.SIGKILL)
    failed = failure(detect(address, site, tmp_path / "gone"))
    assert failed["code"] in ("pacs-cut", "pacs-offline")
    assert not (tmp_path / "gone").exists()
    orthanc.start()
    assert orthanc.holds() == {"MR thin": 6, **RESULTS}
