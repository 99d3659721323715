"""The DICOM files of a volume, as Slicer's database knows them."""

import numpy as np
from slicerapp.heads import add_volume


class Database:
    """Knows the files of two of three images."""

    def fileForInstance(self, uid):
        return {"1.1": "/data/one.dcm", "1.2": "/data/two.dcm"}.get(uid, "")


def test_the_files_are_those_that_the_database_knows(scene, monkeypatch):
    import slicer
    from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import dicomFilesOf

    node = add_volume(np.zeros((2, 2, 2), np.int16), np.eye(4))
    node.SetAttribute("DICOM.instanceUIDs", "1.1 1.2 1.3")
    monkeypatch.setattr(slicer, "dicomDatabase", None, raising=False)
    assert dicomFilesOf(node) == []
    monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
    assert dicomFilesOf(node) == ["/data/one.dcm", "/data/two.dcm"]
    node.RemoveAttribute("DICOM.instanceUIDs")
    assert dicomFilesOf(node) == []
