"""The card for people says what is on the card and what is not, in text, Markdown and picture."""

import dataclasses
import re

import pytest
from engine.model_examples import CARD
from PIL import Image
from service.model_folders import add_model
from service.small_site import run
from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.service.models.card_file import card_markdown, write_card
from SpatialARAnomalyLib.service.models.card_text import card_sections


def test_every_section_is_there_with_what_the_card_knows():
    sections = card_sections(CARD)
    assert list(sections) == [
        "Intended use", "Data", "Domain", "Network", "Calibration", "Limits", "Origin",
    ]  # fmt: skip
    texts = "\n".join(text for section in sections.values() for text in section.values())
    for words in (
        "For research use only", "Not on the card: evaluate", "Age, sex and health",
        f"{CARD.token_mm:.3g} mm", CARD.modality.value, CARD.slices.plane.value, CARD.notice,
        CARD.encoder.name, f"{CARD.best_epoch} of {len(CARD.curve)}", CARD.weights_sha256,
    ):  # fmt: skip
        assert words in texts, words


def test_a_rough_calibration_and_the_demonstration_encoder_are_limits():
    few = card_sections(CARD)["Limits"]
    assert ("few scans" in few) == CARD.calibration.is_rough
    real = dataclasses.replace(CARD.encoder, name="timm/vit_x")
    assert "encoder" not in card_sections(dataclasses.replace(CARD, encoder=real))["Limits"]
    demonstration = dataclasses.replace(CARD.encoder, name="demonstration")
    shown = card_sections(dataclasses.replace(CARD, encoder=demonstration))["Limits"]
    assert "demos and tests only" in shown["encoder"]


def test_names_are_no_markup():
    text = card_markdown(dataclasses.replace(CARD, name="a|b *c* <img src=x>\nd"), "p.png")
    assert "# Model a\\|b \\*c\\* &lt;img" in text
    table_rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in table_rows)


@pytest.mark.slow
def test_text_and_picture_are_written_together_or_not_at_all(tmp_path):
    text, picture = write_card(tmp_path / "my card", CARD, overwrite=False)
    assert (text.name, picture.name) == ("my card.md", "my card.png")
    assert "](<my card.png>)" in text.read_text(encoding="utf-8")
    with Image.open(picture) as image:
        assert image.size == (990, 418)
    before = text.read_bytes()
    text.unlink()
    with pytest.raises(OutputError, match="exists already"):
        write_card(tmp_path / "my card.md", CARD, overwrite=False)
    assert not text.exists()
    write_card(tmp_path / "my card.md", CARD, overwrite=True)
    assert text.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_the_command_prints_the_card(tmp_path):
    shown = run("models", "show", add_model(tmp_path, "brain [t1]")).stdout
    for title in card_sections(CARD):
        assert f"\n{title}" in shown, title


@pytest.mark.slow
def test_the_command_writes_the_card(tmp_path):
    model = add_model(tmp_path, "brain [t1]")
    done = run("models", "show", model, "--markdown", tmp_path / "card.md")
    assert done.stdout.count("Written: ") == 2
    assert (tmp_path / "card.md").read_text(encoding="utf-8").startswith("# Model brain \\[t1\\]")
    again = run("models", "show", model, "--markdown", tmp_path / "card.md")
    assert (again.exit_code, "[output-exists]" in again.stderr) == (2, True)
