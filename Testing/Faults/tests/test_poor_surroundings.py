"""A sample of `Faults.surroundings`: commands without writable caches, or with little memory."""

import sys

import pytest
from Faults.campaign import can_mount
from Faults.surroundings import try_caches, try_memory

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="limits and mounts of Linux"),
    pytest.mark.slow,
]


@pytest.mark.parametrize(
    ("state", "name"), [("full", "detect"), ("read-only", "models import"), ("missing", "import")]
)
def test_caches_that_cannot_be_written_are_done_without(state, name, site, tmp_path):
    if not can_mount(tmp_path):
        pytest.skip("no small disk can be mounted here (needs root)")
    assert try_caches(site, tmp_path, state, name) == []


def test_too_little_memory_from_the_start_is_told(site, tmp_path):
    end, problems = try_memory(site, tmp_path, 100, "import")
    assert problems == []
    assert end != "0"
