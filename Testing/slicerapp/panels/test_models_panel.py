"""The section *Models*: what is listed, and what its buttons do, with one warm worker."""

import dataclasses
import os
import shutil
import time

import pytest
from Harness import grab, run_events, wait_until
from service.model_folders import add_model, change_byte
from service.small_site import tree
from slicerapp.tooltips import tip
from SpatialARAnomalyLib.engine.model.model_file import read_card, verify_model
from SpatialARAnomalyLib.service.encoders import registry

pytestmark = pytest.mark.slow

NAME, STATE, MODALITY, NORMALS = range(4)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SPATIAL_AR_ANOMALY_HOME", str(tmp_path / "settings"))


class Models:
    """The section, as a user handles it."""

    def __init__(self, module, folder) -> None:
        self.module, self.folder, self.ui = module, folder, module.ui
        self.panel = module.widget.panel.models
        self.dialogs = module.widget.panel.dialogs
        if self.ui.modelsSection.property("collapsed"):
            self.ui.modelsSection.setProperty("collapsed", False)
        self.settle()

    def answers(self, confirm: bool = False, file: object = "", name: str = "") -> None:
        """Set what the user answers."""
        self.dialogs.yes, self.dialogs.path, self.dialogs.text = confirm, file, name

    def settle(self) -> None:
        """Wait until nothing runs here."""
        wait_until(lambda: not self.panel.busy and not self.panel.listing, 200, "the models")
        run_events()

    def click(self, button_name: str, **given) -> str:
        """Click a button and answer; what the section says in the end."""
        if given:
            self.answers(**given)
        button = getattr(self.ui, f"models{button_name}Button")
        assert button.isEnabled(), button.toolTip
        button.click()
        self.settle()
        return self.ui.modelsStatusLabel.text

    def row(self, name: str) -> int:
        """Where a model is in the table."""
        return self.names().index(name)

    def names(self) -> list[str]:
        """All names, as they are sorted."""
        table = self.ui.modelsTable
        return [table.item(row, NAME).text() for row in range(table.property("rowCount"))]

    def cell(self, name: str, column: int):
        """A cell of a model's row."""
        return self.ui.modelsTable.item(self.row(name), column)

    def choose(self, name: str) -> None:
        """Click on a model."""
        self.ui.modelsTable.selectRow(self.row(name))

    def reason(self, name: str) -> str | None:
        """Why a button cannot be clicked."""
        button = getattr(self.ui, f"models{name}Button")
        return None if button.isEnabled() else tip(button)


@pytest.fixture
def models(opened, models_folder):
    """The section, open, with the quick model and three others."""
    add_model(models_folder, "Größe 脳", file="second")
    away = dataclasses.replace(read_card(models_folder / "second").encoder, name="timm/vit_x")
    add_model(models_folder, "of another machine", seed=1, file="third", encoder=away)
    content = (models_folder / "second.safetensors").read_bytes()
    (models_folder / "cut.safetensors").write_bytes(content[:-1])
    return Models(opened, models_folder)


def test_all_models_are_listed_with_what_they_are(models):
    assert sorted(models.names()) == sorted(
        ["cut", "Größe 脳", "of another machine", "small heads"]
    )
    cells = [
        models.cell("small heads", column).text() for column in (NAME, STATE, MODALITY, NORMALS)
    ]
    card = read_card(models.folder / "quick")
    normals = str(len(card.normals.training_sha256) + len(card.normals.held_out_sha256))
    assert cells == ["small heads", "✓", "MR", normals]
    models.choose("small heads")
    size = os.path.getsize(models.folder / "quick.safetensors") / 1e6
    assert models.ui.modelsDetailLabel.text == (
        f"Axial slices, field of view {card.slices.fov_mm:g} mm. Trained {card.created}; "
        f"{size:.3g} MB. Encoder: demonstration."
    )


def test_a_damaged_model_says_what_is_wrong_and_can_only_be_deleted(models):
    assert models.cell("cut", STATE).text() == "⚠ cannot be used"
    assert "it must have" in models.cell("cut", STATE).toolTip()
    models.choose("cut")
    assert "it must have" in models.ui.modelsDetailLabel.text
    for name in ("Use", "Export", "Rename"):
        assert "it must have" in models.reason(name)
    assert models.click("Delete", confirm=True) == "Deleted: cut."
    assert not (models.folder / "cut.safetensors").exists()


def test_a_missing_encoder_is_shown_with_the_way_to_get_it(models):
    assert "Download it under Encoders" in models.cell("of another machine", STATE).toolTip()
    assert models.cell("of another machine", STATE).text() == "encoder missing"
    models.choose("of another machine")
    assert "timm/vit_x is not on this machine" in models.ui.modelsDetailLabel.text
    models.click("Use")
    assert "timm/vit_x is not on this machine" in models.ui.modelCardLabel.text


def test_the_card_is_shown_and_saved(models, tmp_path):
    models.choose("small heads")
    assert not models.ui.modelsCardFrame.isVisibleTo(models.ui.modelsSection)
    assert models.click("Card") == ""
    assert models.ui.modelsCardFrame.isVisibleTo(models.ui.modelsSection)
    text = models.ui.modelsCardText.toPlainText()
    for title in ("Model small heads", "Intended use", "Data", "Calibration", "Limits"):
        assert title in text, title
    assert models.panel._picture.isVisibleTo(models.ui.modelsCardFrame)
    assert models.click("CardSave", file=tmp_path / "card") == "Written: card.md, card.png"
    assert "exists already" in models.click("CardSave", file=tmp_path / "card")
    assert "Written" in models.click("CardSave", file=tmp_path / "card.md")
    models.choose("Größe 脳")
    assert not models.ui.modelsCardFrame.isVisibleTo(models.ui.modelsSection)
    models.choose("cut")
    assert "it must have" in models.reason("Card")


def test_the_encoder_button_leads_to_encoders(models):
    models.choose("small heads")
    assert models.reason("Encoder") == "The encoder is on this machine."
    models.choose("of another machine")
    assert models.ui.encodersSection.property("collapsed")
    models.click("Encoder")
    assert not models.ui.encodersSection.property("collapsed")
    table = models.ui.encodersTable
    (chosen,) = table.selectionModel().selectedRows()
    assert "timm/vit_x" in table.item(chosen.row(), 0).text()


def test_an_encoder_that_came_is_seen(models, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    card = read_card(models.folder / "third")
    registry.remember(card.encoder.weights_sha256, str(weights))
    models.module.widget.panel.encoders.onChanged()
    models.settle()
    assert models.cell("of another machine", STATE).text() == "✓"


@pytest.mark.parametrize("how", ["button", "double click"])
def test_a_model_is_chosen_in_detect(models, how):
    models.choose("Größe 脳")
    if how == "button":
        models.click("Use")
    else:
        models.ui.modelsTable.cellDoubleClicked.emit(models.row("Größe 脳"), MODALITY)
        models.settle()
    assert models.ui.modelsStatusLabel.text == "Größe 脳 is chosen in Detect."
    assert models.ui.modelSelector.property("currentText") == "Größe 脳"
    from SpatialARAnomalyLib.slicerapp import Settings

    card = read_card(models.folder / "second")
    assert Settings.lastModel() == card.weights_sha256
    parameters = models.module.widget.logic.getParameterNode()
    assert parameters.modelSha256 == card.weights_sha256
    models.module.widget.panel.enter()
    assert models.ui.modelSelector.property("currentText") == "Größe 脳"


def test_of_two_copies_the_chosen_one_stays_chosen(models):
    shutil.copy(models.folder / "second.safetensors", models.folder / "a copy.safetensors")
    detect = models.module.widget.panel.detect
    for name in ("second", "a copy"):
        assert detect.chooseModel(models.folder / f"{name}.safetensors")
        detect.reloadModels()
        assert detect.chosenModel().path.stem == name


def test_choosing_what_is_no_model_changes_nothing(models):
    detect = models.module.widget.panel.detect
    before = detect.chosenModel().path
    assert not detect.chooseModel(models.folder / "cut.safetensors")
    assert not detect.chooseModel(models.folder / "none.safetensors")
    assert detect.chosenModel().path == before


def test_a_model_travels_through_a_file(models, tmp_path):
    file = tmp_path / "für andere.safetensors"
    models.choose("Größe 脳")
    assert models.click("Export", file=file) == "Written: für andere.safetensors"
    original = (models.folder / "second.safetensors").read_bytes()
    assert models.click("Import", file=file) == "This model already exists as Größe 脳."
    models.choose("Größe 脳")
    models.click("Delete", confirm=True)
    assert "Größe 脳" not in models.names()
    assert models.click("Import", file=file) == "Imported: Größe 脳."
    assert (models.folder / "Größe 脳.safetensors").read_bytes() == original
    assert models.ui.modelsTable.item(models.row("Größe 脳"), NAME).isSelected()
    assert "Größe 脳" in [
        models.ui.modelSelector.itemText(index)
        for index in range(models.ui.modelSelector.property("count"))
    ]


def test_a_file_that_is_none_is_told_and_changes_nothing(models, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no model at all, but long enough")
    before = tree(models.folder)
    assert models.click("Import", file=tmp_path / "x.safetensors").startswith(
        "⚠ The file is not a model of SpatialARAnomaly"
    )
    assert tree(models.folder) == before


def test_an_export_over_a_file_asks(models, tmp_path):
    file = add_model(tmp_path, "x")
    before = file.read_bytes()
    models.choose("small heads")
    models.click("Export", file=tmp_path / "x", confirm=False)
    assert file.read_bytes() == before
    assert "Replace it?" in models.dialogs.questions[-1]
    assert models.click("Export", file=tmp_path / "x", confirm=True) == "Written: x.safetensors"
    assert file.read_bytes() == (models.folder / "quick.safetensors").read_bytes()
    file.write_text("years of work")
    assert "is not a model; it is not replaced" in models.click("Export", file=file)
    assert file.read_text() == "years of work"


def test_a_dialog_that_is_closed_does_nothing(models):
    before = tree(models.folder)
    models.choose("small heads")
    for name in ("Import", "Export", "Rename", "Delete"):
        assert models.click(name, confirm=False) == ""
    assert tree(models.folder) == before


def test_a_model_is_renamed_and_stays_chosen_everywhere(models):
    models.choose("Größe 脳")
    models.click("Use")
    assert models.click("Rename", name="brain") == "Renamed: Größe 脳 is now brain."
    assert verify_model(models.folder / "brain").name == "brain"
    assert models.cell("brain", NAME).isSelected()
    assert models.ui.modelSelector.property("currentText") == "brain"
    assert models.click("Rename", name="small heads").startswith("⚠ There is another model")
    assert models.click("Rename", name="a/b").startswith("⚠ A model's name must hold none of")
    assert verify_model(models.folder / "brain").name == "brain"


def test_delete_asks_and_takes_no_for_an_answer(models):
    models.choose("Größe 脳")
    models.click("Delete", confirm=False)
    assert models.dialogs.questions == ["Delete the model Größe 脳? This cannot be undone."]
    assert (models.folder / "second.safetensors").exists()
    models.click("Delete", confirm=True)
    assert not (models.folder / "second.safetensors").exists()


def test_verify_tells_damage_that_the_list_cannot_see(models):
    models.choose("Größe 脳")
    assert models.click("Check") == "Größe 脳 is intact: its weights match its card."
    assert models.cell("Größe 脳", STATE).text() == "✓ checked"
    change_byte(models.folder / "second.safetensors")
    models.module.widget.panel.enter()
    models.settle()
    assert models.cell("Größe 脳", STATE).text() == "✓"
    assert models.click("Check").startswith("⚠ The model file is not as it was written")
    assert models.cell("Größe 脳", STATE).text() == "⚠ cannot be used"
    assert "not as it was written" in models.reason("Export")


def test_while_another_task_runs_nothing_is_begun(models):
    models.choose("Größe 脳")
    ended = []
    inputs = {"model": str(models.folder / "quick")}
    models.module.widget.logic.worker.submit("model_verify", inputs=inputs, onEnd=ended.append)
    assert models.click("Delete", confirm=True).startswith("⚠ Another task is running.")
    wait_until(lambda: ended, 60, "the other task")
    assert (models.folder / "second.safetensors").exists()


def test_the_folder_is_opened_and_made_if_need_be(models):
    shutil.rmtree(models.folder)
    models.click("Open")
    assert models.dialogs.opened == [models.folder]
    assert models.folder.is_dir()


def test_fifty_models_are_listed_without_a_pause_and_only_when_seen(models):
    from Harness import gui_gap

    for number in range(50):
        shutil.copy(models.folder / "second.safetensors", models.folder / f"{number}.safetensors")
    with gui_gap(clock=time.thread_time) as gap:
        models.panel.reload()
        models.settle()
    assert len(models.names()) == 54
    assert gap.longest_s < 0.5
    models.ui.modelsSection.setProperty("collapsed", True)
    models.panel.reload()
    assert not models.panel.listing


def test_a_panel_that_goes_away_meanwhile_says_nothing_more(models, warm_worker):
    models.choose("Größe 脳")
    models.ui.modelsCheckButton.click()
    models.module.unload()
    object.__setattr__(models.module, "unload", lambda: None)
    wait_until(lambda: not warm_worker.busy, 60, "the worker to stop")
    run_events()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_section_is_drawn(models, tmp_path, scheme):
    models.choose("of another machine")
    assert grab(models.ui.modelsSection, tmp_path / "models.png", scheme=scheme).stat().st_size
