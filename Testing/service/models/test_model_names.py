"""Names that are folders' names on every system."""

import unicodedata

import pytest
from SpatialARAnomalyLib.engine.errors import ModelError
from SpatialARAnomalyLib.service.models.names import (
    LONGEST,
    LONGEST_BYTES,
    as_compared,
    check_name,
    fitting,
    free_name,
    why_not,
)

GOOD = ["brain", "T1 Größe 脳", "a.b", "COM10", "console", "مغز\u200cسر", "x" * LONGEST, "-", "'"]
BAD = [
    "", " ", "\t", "a/b", "a\\b", "..", ".", ".hidden", "a.", "a ", " a", "a:b", 'a"b', "a|b", "a*",
    "a?", "<a>", "a\nb", "a\x00b", "a\x7fb", "a\u202eb", "a\ud800b", "a\u2028b", "CON", "con",
    "Aux.model", "nul .x", "COM1", "lpt9.txt", "com¹", "CONIN$", "x" * (LONGEST + 1), "脳" * 70,
    "brain.training", "a.Training", ".partial-x", "/etc/passwd", "C:\\x",
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_names_are_taken_as_they_are(name, tmp_path):
    check_name(name)
    assert fitting(name) == name
    (tmp_path / name).mkdir()


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused_with_the_reason_and_made_to_fit(name, tmp_path):
    with pytest.raises(ModelError, match=r"A model's name must .*\.") as caught:
        check_name(name)
    assert caught.value.code == "model-name"
    fits = fitting(name)
    assert why_not(fits) is None
    (tmp_path / fits).mkdir()
    assert (tmp_path / fits).parent == tmp_path


def test_what_can_be_kept_of_a_name_is_kept():
    assert fitting("T1/axial") == "T1_axial"
    assert fitting(" brain. ") == "brain"
    assert fitting("CON") == "model CON"
    assert fitting("brain.training") == "model brain_training"
    assert fitting("///") == "___"
    assert fitting("...") == "model"


@pytest.mark.parametrize("name", ["brain", "x" * LONGEST, "脳" * 66])
def test_a_taken_name_gets_the_first_free_number(name):
    taken = set()
    for number in range(1, 13):
        free = free_name(name, taken)
        assert why_not(free) is None
        assert as_compared(free) not in taken
        assert free.endswith(f" ({number})") or number == 1
        assert len(free.encode()) <= LONGEST_BYTES
        taken.add(as_compared(free))


def test_names_are_the_same_whatever_their_case_and_composition():
    assert as_compared("Größe") == as_compared("GRÖSSE")
    assert as_compared("Größe") == as_compared(unicodedata.normalize("NFD", "Größe"))
    assert as_compared("brain") != as_compared("brain 2")
