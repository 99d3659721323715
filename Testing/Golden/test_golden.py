"""Every stage from a fixed scan to its NLL gives the stored values."""

import json

import pytest
from Golden.make_golden import GOLDEN, golden

STAGES = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


@pytest.fixture(scope="module")
def found():
    return golden()


@pytest.mark.parametrize("stage", STAGES)
def test_stage_gives_the_stored_values(stage, found):
    assert found[stage] == pytest.approx(STAGES[stage], rel=1e-4, abs=1e-5)


def test_all_stages_are_stored(found):
    assert list(found) == list(STAGES)
    assert len(STAGES) == 9
