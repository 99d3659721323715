"""A short sample of the long runs; growth of memory needs the whole (`Faults.long_run`)."""

import sys

import pytest
from Faults.long_run import detect_again, write_checkpoints

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.slow
def test_detections_leave_neither_handles_nor_files(site, tmp_path):
    growth = detect_again(site, tmp_path, 8)
    assert len(growth.settled_handles) == 1, growth.handles


def test_checkpoints_leave_neither_handles_nor_files(tmp_path):
    growth = write_checkpoints(tmp_path, 12)
    assert len(growth.settled_handles) == 1, growth.handles
