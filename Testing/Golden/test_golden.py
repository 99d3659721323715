import json

import pytest
from Golden.make_golden import GOLDEN, golden

STAGES = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


@pytest.fixture(scope="module")
def found():
    return golden()


@pytest.mark.parametrize("stage", STAGES)
def test_stage_gives_what_it_gave(stage, found):
    assert found[stage] == pytest.approx(STAGES[stage], rel=1e-4, abs=1e-5)


def test_no_stage_is_left_out(found):
    assert list(found) == list(STAGES)
    assert len(STAGES) == 9
