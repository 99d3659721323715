"""In the section *Train*: the model's name and how it is to learn; remembered."""

from collections.abc import Callable, Sequence
from pathlib import Path

from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.specs import Modality, Plane, Preset
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.panels.EncodersTable import OWN_FILES, encoderChoices
from SpatialARAnomalyLib.slicerapp.ParameterNode import SpatialARAnomalyParameterNode

PATCH_PX = 16
"""The resolution is a multiple of the encoders' patch."""


class TrainForm:
    """Selectors and fields; `onChange` hears of every change of them."""

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
                (_("Balanced (recommended)"), Preset.BALANCED.value),
                (_("Fast"), Preset.FAST.value),
                (_("Thorough"), Preset.THOROUGH.value),
                (_("Standard (the paper's)"), Preset.STANDARD.value),
                (_("Dilated (the paper's, sees farther)"), Preset.DILATED.value),
            ],
        )
        _choose(ui.trainPresetSelector, Settings.training("Preset"))
        ui.trainSizeSpinBox.setValue(int(Settings.training("SizePx")))
        ui.trainEpochsSpinBox.setValue(int(Settings.training("Epochs")))
        self.listEncoders()
        self._connections = (
            (ui.trainNameEdit.textChanged, self._changed),
            (ui.trainModalitySelector.currentIndexChanged, self._chosen),
            (ui.trainPlaneSelector.currentIndexChanged, self._chosen),
            (ui.trainEncoderSelector.currentIndexChanged, self._chosen),
            (ui.trainEncoderPathEdit.currentPathChanged, self._chosen),
            (ui.trainPresetSelector.currentIndexChanged, self._chosen),
            (ui.trainSizeSpinBox.valueChanged, self._chosen),
            (ui.trainSizeSpinBox.editingFinished, self._roundSize),
            (ui.trainEpochsSpinBox.valueChanged, self._chosen),
        )
        for signal, slot in self._connections:
            signal.connect(slot)

    def cleanup(self) -> None:
        """Let go of the widgets."""
        for signal, slot in self._connections:
            signal.disconnect(slot)

    def listEncoders(self) -> None:
        """List the encoders there are now, and choose the remembered one."""
        ui, encoder = self._ui, Settings.training("Encoder")
        self._filling = True
        ui.trainEncoderSelector.clear()
        _fill(ui.trainEncoderSelector, encoderChoices())
        known = ui.trainEncoderSelector.findData(encoder)
        if known < 0 and Path(encoder).is_absolute():
            ui.trainEncoderPathEdit.setCurrentPath(encoder)
            known = ui.trainEncoderSelector.findData(OWN_FILES)
        ui.trainEncoderSelector.setCurrentIndex(max(0, known))
        self._filling = False

    def setParameters(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Show the settings of a scene; None while there is none."""
        self._parameters = parameters
        if parameters is not None:
            self._filling = True
            _choose(self._ui.trainModalitySelector, parameters.trainModality)
            _choose(self._ui.trainPlaneSelector, parameters.trainPlane)
            self._filling = False

    def spec(self) -> TrainSpec:
        """What is chosen now, for scans whose modality and field of view are not known yet."""
        ui = self._ui
        encoder = _value(ui.trainEncoderSelector)
        if encoder == OWN_FILES:
            encoder = str(ui.trainEncoderPathEdit.property("currentPath") or "").strip()
        modality = _value(ui.trainModalitySelector)
        return TrainSpec(
            name=str(ui.trainNameEdit.property("text")).strip() or None,
            modality=Modality(modality) if modality else None,
            plane=Plane(_value(ui.trainPlaneSelector)),
            size_px=_wholePatches(ui.trainSizeSpinBox.property("value")),
            encoder=encoder,
            preset=Preset(_value(ui.trainPresetSelector)),
            epochs=int(ui.trainEpochsSpinBox.property("value")),
            device=Settings.device(),
        )

    def enable(self, isFree: bool) -> None:
        """Let the user choose, or not while scans are looked at or learned from."""
        ui = self._ui
        for widget in (
            ui.trainModalitySelector,
            ui.trainPlaneSelector,
            ui.trainNameEdit,
            ui.trainEncoderSelector,
            ui.trainEncoderPathEdit,
            ui.trainPresetSelector,
            ui.trainSizeSpinBox,
            ui.trainEpochsSpinBox,
        ):
            widget.setEnabled(isFree)
        ownFiles = _value(ui.trainEncoderSelector) == OWN_FILES
        ui.trainEncoderPathEdit.setVisible(ownFiles)
        ui.trainEncoderPathLabel.setVisible(ownFiles)

    def _chosen(self, *_unused: object) -> None:
        """Remember what was chosen."""
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

    def _changed(self, *_unused: object) -> None:
        self._onChange()

    def _roundSize(self, *_unused: object) -> None:
        self._ui.trainSizeSpinBox.setValue(self.spec().size_px)


def _fill(selector: object, choices: Sequence[tuple[str, str]]) -> None:
    """What to show, and the value behind it."""
    for text, value in choices:
        selector.addItem(text, value)


def _value(selector: object) -> str:
    return str(selector.itemData(selector.property("currentIndex")) or "")


def _choose(selector: object, value: str) -> None:
    selector.setCurrentIndex(max(0, selector.findData(value)))


def _wholePatches(sizePx: int) -> int:
    return max(1, round(int(sizePx) / PATCH_PX)) * PATCH_PX
