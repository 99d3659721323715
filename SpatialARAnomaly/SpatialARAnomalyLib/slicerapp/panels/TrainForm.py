"""The settings of a training in the section *Train*."""

from collections.abc import Callable, Sequence
from pathlib import Path

from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.specs import Modality, Orientation, Plane, Preset
from SpatialARAnomalyLib.service.encoders.library import list_encoders
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.ParameterNode import SpatialARAnomalyParameterNode
from SpatialARAnomalyLib.slicerapp.QtHelpers import (
    Connections,
    pathChanges,
    pathText,
)

PATCH_PX = 16
"""Patch of the encoders in pixels; the resolution is a multiple of it."""

OWN_FILES = ""
"""Value of the encoder selector for a folder or file of the user's."""


class TrainForm:
    """Reads and remembers the settings; `onChange` is called after every change."""

    def __init__(self, ui: object, onChange: Callable[[], None]) -> None:
        self._ui = ui
        self._onChange = onChange
        self._parameters: SpatialARAnomalyParameterNode | None = None
        self._filling = False
        _fill(
            ui.trainModalitySelector,
            [(_("Automatic"), ""), ("MR", Modality.MR.value), ("CT", Modality.CT.value)],
        )
        _fill(
            ui.trainPlaneSelector,
            [
                (_("Axial"), Plane.AXIAL.value),
                (_("Coronal"), Plane.CORONAL.value),
                (_("Sagittal"), Plane.SAGITTAL.value),
            ],
        )
        _fill(
            ui.trainPresetSelector,
            [
                (_("Composite (recommended)"), Preset.COMPOSITE.value),
                (_("Standard (the paper's)"), Preset.STANDARD.value),
                (_("Dilated (the paper's, far context)"), Preset.DILATED.value),
            ],
        )
        _fill(
            ui.trainOrientationSelector,
            [
                (_("Where two differ: exclude"), ""),
                (_("Where two differ: sform"), Orientation.SFORM.value),
                (_("Where two differ: qform"), Orientation.QFORM.value),
            ],
        )
        _choose(ui.trainPresetSelector, Settings.training("Preset"))
        ui.trainSizeSpinBox.setValue(int(Settings.training("SizePx")))
        ui.trainEpochsSpinBox.setValue(int(Settings.training("Epochs")))
        self.listEncoders()
        self._widgets = (
            ui.trainModalitySelector,
            ui.trainPlaneSelector,
            ui.trainEncoderSelector,
            ui.trainPresetSelector,
            ui.trainOrientationSelector,
            ui.trainEncoderPathEdit,
            ui.trainSizeSpinBox,
            ui.trainEpochsSpinBox,
            ui.trainNameEdit,
            ui.trainUnstatedCheckBox,
        )
        self._connections = Connections(
            *((selector.currentIndexChanged, self._remember) for selector in self._widgets[:5]),
            *pathChanges(ui.trainEncoderPathEdit, self._remember),
            (ui.trainSizeSpinBox.valueChanged, self._remember),
            (ui.trainSizeSpinBox.editingFinished, self._roundSize),
            (ui.trainEpochsSpinBox.valueChanged, self._remember),
            (ui.trainUnstatedCheckBox.toggled, self._remember),
            (ui.trainNameEdit.textChanged, lambda *_unused: self._onChange()),
        )

    def cleanup(self) -> None:
        """Disconnect from the widgets."""
        self._connections.close()

    def listEncoders(self) -> None:
        """List the encoders on this machine and choose the remembered one."""
        ui, encoder = self._ui, Settings.training("Encoder")
        self._filling = True
        ui.trainEncoderSelector.clear()
        _fill(ui.trainEncoderSelector, _encoderChoices())
        index = ui.trainEncoderSelector.findData(encoder)
        if index < 0 and Path(encoder).is_absolute():
            ui.trainEncoderPathEdit.setCurrentPath(encoder)
            index = ui.trainEncoderSelector.findData(OWN_FILES)
        ui.trainEncoderSelector.setCurrentIndex(max(0, index))
        self._filling = False

    def setParameters(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Set the parameters of the scene; None without a scene."""
        self._parameters = parameters
        if parameters is not None:
            self._filling = True
            _choose(self._ui.trainModalitySelector, parameters.trainModality)
            _choose(self._ui.trainPlaneSelector, parameters.trainPlane)
            self._filling = False

    def spec(self) -> TrainSpec:
        """Return the settings; the field of view comes from a survey."""
        ui = self._ui
        encoder = _value(ui.trainEncoderSelector)
        if encoder == OWN_FILES:
            encoder = pathText(ui.trainEncoderPathEdit)
        modality = _value(ui.trainModalitySelector)
        orientation = _value(ui.trainOrientationSelector)
        sizePx = int(ui.trainSizeSpinBox.property("value"))
        return TrainSpec(
            name=str(ui.trainNameEdit.property("text")).strip() or None,
            modality=Modality(modality) if modality else None,
            plane=Plane(_value(ui.trainPlaneSelector)),
            size_px=max(1, round(sizePx / PATCH_PX)) * PATCH_PX,
            encoder=encoder,
            preset=Preset(_value(ui.trainPresetSelector)),
            epochs=int(ui.trainEpochsSpinBox.property("value")),
            device=Settings.device(),
            orientation=Orientation(orientation) if orientation else None,
            allow_unstated_orientation=ui.trainUnstatedCheckBox.isChecked(),
        )

    def setEnabled(self, enabled: bool) -> None:
        """Enable the settings, or disable them during a survey or training."""
        for widget in self._widgets:
            widget.setEnabled(enabled)
        ownFiles = _value(self._ui.trainEncoderSelector) == OWN_FILES
        self._ui.trainEncoderPathEdit.setVisible(ownFiles)
        self._ui.trainEncoderPathLabel.setVisible(ownFiles)

    def _remember(self, *_unused: object) -> None:
        if self._filling:
            return
        spec = self.spec()
        Settings.setTraining("Encoder", spec.encoder)
        Settings.setTraining("Preset", spec.preset.value)
        Settings.setTraining("SizePx", str(spec.size_px))
        Settings.setTraining("Epochs", str(spec.epochs))
        if self._parameters is not None:
            self._parameters.trainModality = spec.modality.value if spec.modality else ""
            self._parameters.trainPlane = spec.plane.value
        self._onChange()

    def _roundSize(self, *_unused: object) -> None:
        self._ui.trainSizeSpinBox.setValue(self.spec().size_px)


def _encoderChoices() -> list[tuple[str, str]]:
    """Return text and source of every encoder that can be trained on."""
    choices = [(_("Demonstration (quick, for trying)"), DEMONSTRATION)]
    for entry in list_encoders():
        if entry.here:
            title = f"DINOv3 {entry.title}" if entry.known else entry.title
            choices.append((title, entry.source))
    choices.append((_("A folder or file of DINOv3 weights"), OWN_FILES))
    return choices


def _fill(selector: object, choices: Sequence[tuple[str, str]]) -> None:
    for text, value in choices:
        selector.addItem(text, value)


def _value(selector: object) -> str:
    return str(selector.itemData(selector.property("currentIndex")) or "")


def _choose(selector: object, value: str) -> None:
    selector.setCurrentIndex(max(0, selector.findData(value)))
