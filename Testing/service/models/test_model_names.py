"""Names of models are valid file names on every system."""

import unicodedata

import pytest
from SpatialARAnomalyLib.engine.errors import ModelError
from SpatialARAnomalyLib.engine.file_names import comparable
from SpatialARAnomalyLib.service.models.library import (
    MAX_BYTES,
    MAX_CHARACTERS,
    check_name,
    find_free_name,
    make_valid,
    name_problem,
)

GOOD = [
    "brain",
    "T1 Größe 脳",
    "a.b",
    "COM10",
    "console",
    "مغز\u200cسر",
    "x" * MAX_CHARACTERS,
    "-",
    "'",
]
BAD = [
    "", " ", "\t", "a/b", "a\\b", "..", ".", ".hidden", "a.", "a ", " a", "a:b", 'a"b', "a|b", "a*",
    "a?", "<a>", "a\nb", "a\x00b", "a\x7fb", "a\u202eb", "a\ud800b", "a\u2028b", "CON", "con",
    "Aux.model", "nul .x", "COM1", "lpt9.txt", "com¹", "CONIN$", "脳" * 70,
    "x" * (MAX_CHARACTERS + 1), "brain.training", "a.Training", ".partial-x", "/etc/passwd",
    "C:\\x",
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_names_are_taken_as_they_are(name, tmp_path):
    check_name(name)
    assert make_valid(name) == name
    (tmp_path / name).mkdir()


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused_with_the_reason_and_made_to_fit(name, tmp_path):
    with pytest.raises(ModelError, match=r"A model's name must .*\.") as caught:
        check_name(name)
    assert caught.value.code == "model-name"
    valid = make_valid(name)
    assert name_problem(valid) is None
    (tmp_path / valid).mkdir()
    assert (tmp_path / valid).parent == tmp_path


def test_what_can_be_kept_of_a_name_is_kept():
    assert make_valid("T1/axial") == "T1_axial"
    assert make_valid(" brain. ") == "brain"
    assert make_valid("CON") == "CON_"
    assert make_valid("brain.training") == "brain_training"
    assert make_valid("///") == "___"
    assert make_valid("...") == "model"


@pytest.mark.parametrize("name", ["brain", "x" * MAX_CHARACTERS, "脳" * 66])
def test_a_taken_name_gets_the_first_free_number(name):
    taken = set()
    for number in range(1, 13):
        free = find_free_name(name, taken)
        assert name_problem(free) is None
        assert comparable(free) not in taken
        assert free.endswith(f" ({number})") or number == 1
        assert len(free.encode()) <= MAX_BYTES
        taken.add(comparable(free))


def test_names_are_the_same_whatever_their_case_and_composition():
    assert comparable("Größe") == comparable("GRÖSSE")
    assert comparable("Größe") == comparable(unicodedata.normalize("NFD", "Größe"))
    assert comparable("brain") != comparable("brain 2")
