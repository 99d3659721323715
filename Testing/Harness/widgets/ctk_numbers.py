"""Stand-ins for CTK's sliders and spin boxes."""
# ruff: noqa: N801

import math

import qt
from PySide6.QtCore import Property, Signal

from .observing import calling
from .properties import forwarded, stand_in, stored

_MAXIMUM_STEPS = 100_000


def _row(widget, *children):
    layout = qt.QHBoxLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    for child in children:
        layout.addWidget(child)


@stand_in
class ctkDoubleSpinBox(qt.QWidget):
    """A spin box of floats."""

    valueChanged = Signal(float)
    editingFinished = Signal()

    def __init__(self, parent=None):
        qt.QWidget.__init__(self, parent)
        self._box = qt.QDoubleSpinBox()
        _row(self, self._box)
        self._box.valueChanged.connect(calling(self, "valueChanged"))
        self._box.editingFinished.connect(calling(self, "editingFinished"))

    minimum = forwarded(float, "_box", "minimum")
    maximum = forwarded(float, "_box", "maximum")
    value = forwarded(float, "_box", "value")
    singleStep = forwarded(float, "_box", "singleStep")
    decimals = forwarded(int, "_box", "decimals")
    prefix = forwarded(str, "_box", "prefix")
    suffix = forwarded(str, "_box", "suffix")
    readOnly = forwarded(bool, "_box", "readOnly")

    def setRange(self, minimum, maximum):
        """The smallest and largest value."""
        self._box.setRange(minimum, maximum)


@stand_in
class ctkDoubleSlider(qt.QWidget):
    """A slider of floats that keeps the value it was given, not that of the nearest step."""

    valueChanged = Signal(float)
    sliderMoved = Signal(float)
    sliderPressed = Signal()
    sliderReleased = Signal()
    rangeChanged = Signal(float, float)

    singleStep = stored(float, 1.0, applied="_show")
    pageStep = stored(float, 10.0)
    tickInterval = stored(float, 0.0)
    orientation = stored(int, 1)
    tickPosition = stored(int, 0)
    invertedAppearance = forwarded(bool, "_slider", "invertedAppearance")
    invertedControls = forwarded(bool, "_slider", "invertedControls")

    def __init__(self, orientation=None, parent=None):
        if hasattr(orientation, "isWidgetType"):
            orientation, parent = None, orientation
        qt.QWidget.__init__(self, parent)
        self._slider = qt.QSlider(qt.Qt.Horizontal if orientation is None else orientation)
        self._minimum, self._maximum, self._value = 0.0, 99.0, 0.0
        _row(self, self._slider)
        self._show()
        self._slider.valueChanged.connect(calling(self, "_take"))
        self._slider.sliderPressed.connect(calling(self, "sliderPressed"))
        self._slider.sliderReleased.connect(calling(self, "sliderReleased"))

    def _steps(self):
        span = self._maximum - self._minimum
        if not math.isfinite(span) or not self.singleStep:
            return _MAXIMUM_STEPS
        return min(max(round(span / self.singleStep), 1), _MAXIMUM_STEPS)

    def _show(self):
        was = self._slider.blockSignals(True)
        self._slider.setRange(0, self._steps())
        span = self._maximum - self._minimum
        position = (self._value - self._minimum) / span if span > 0 else 0
        self._slider.setValue(round(position * self._steps()) if math.isfinite(position) else 0)
        self._slider.blockSignals(was)

    def _take(self, step):
        self._value = self._minimum + step / self._steps() * (self._maximum - self._minimum)
        self.sliderMoved.emit(self._value)
        self.valueChanged.emit(self._value)

    def _set_value(self, value):
        value = min(max(float(value), self._minimum), self._maximum)
        if value == self._value:
            return
        self._value = value
        self._show()
        self.valueChanged.emit(value)

    def _set_limits(self, minimum, maximum):
        changed = (minimum, maximum) != (self._minimum, self._maximum)
        self._minimum, self._maximum = minimum, maximum
        self._set_value(self._value)
        self._show()
        if changed:
            self.rangeChanged.emit(minimum, maximum)

    value = Property(float, lambda self: self._value, _set_value)
    sliderPosition = Property(float, lambda self: self._value, _set_value)
    minimum = Property(
        float,
        lambda self: self._minimum,
        lambda self, value: self._set_limits(value, max(value, self._maximum)),
    )
    maximum = Property(
        float,
        lambda self: self._maximum,
        lambda self, value: self._set_limits(min(value, self._minimum), value),
    )
    tracking = forwarded(bool, "_slider", "tracking")

    def setRange(self, minimum, maximum):
        """The smallest and largest value."""
        self._set_limits(float(minimum), float(maximum))


@stand_in
class ctkSliderWidget(qt.QWidget):
    """A slider with a spin box of the same value."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    decimalsChanged = Signal(int)

    spinBoxVisible = stored(bool, True, applied="_show_box")
    tracking = stored(bool, True)
    popupSlider = stored(bool, False)
    synchronizeSiblings = stored(int, 0)
    tickPosition = forwarded(int, "_slider", "tickPosition")
    spinBoxAlignment = stored(int, 4)

    def __init__(self, parent=None):
        qt.QWidget.__init__(self, parent)
        self._slider, self._box = ctkDoubleSlider(), ctkDoubleSpinBox()
        self._pressed = False
        _row(self, self._slider, self._box)
        self._box.setRange(0, 99)
        self._slider.valueChanged.connect(calling(self, "_take_slider"))
        self._slider.sliderPressed.connect(calling(self, "_press"))
        self._slider.sliderReleased.connect(calling(self, "_release"))
        self._box.valueChanged.connect(calling(self._slider, "setValue"))

    def _take_slider(self, value):
        was = self._box.blockSignals(True)
        self._box.setValue(value)
        self._box.blockSignals(was)
        self.valueIsChanging.emit(value)
        if self.tracking or not self._pressed:
            self.valueChanged.emit(value)

    def _press(self):
        self._pressed = True

    def _release(self):
        self._pressed = False
        if not self.tracking:
            self.valueChanged.emit(self.value)

    def _show_box(self):
        self._box.setVisible(self.spinBoxVisible)

    value = forwarded(float, "_slider", "value")
    # The box first: new limits may move the slider, which then updates the box.
    minimum = forwarded(float, "_box", "_slider", "minimum")
    maximum = forwarded(float, "_box", "_slider", "maximum")
    singleStep = forwarded(float, "_slider", "_box", "singleStep")
    pageStep = forwarded(float, "_slider", "pageStep")
    tickInterval = forwarded(float, "_slider", "tickInterval")
    decimals = forwarded(int, "_box", "decimals")
    prefix = forwarded(str, "_box", "prefix")
    suffix = forwarded(str, "_box", "suffix")

    def setRange(self, minimum, maximum):
        """The smallest and largest value."""
        self._box.setRange(minimum, maximum)
        self._slider.setRange(minimum, maximum)

    def slider(self):
        """The slider inside."""
        return self._slider

    def spinBox(self):
        """The spin box inside."""
        return self._box


@stand_in
class ctkDoubleRangeSlider(qt.QWidget):
    """Two values, the second never smaller than the first."""

    valuesChanged = Signal(float, float)
    minimumValueChanged = Signal(float)
    maximumValueChanged = Signal(float)
    rangeChanged = Signal(float, float)

    singleStep = forwarded(float, "_low", "_high", "singleStep")
    decimals = forwarded(int, "_low", "_high", "decimals")
    prefix = forwarded(str, "_low", "_high", "prefix")
    suffix = forwarded(str, "_low", "_high", "suffix")
    tracking = stored(bool, True)

    def __init__(self, parent=None):
        qt.QWidget.__init__(self, parent)
        self._low, self._high = ctkDoubleSpinBox(), ctkDoubleSpinBox()
        _row(self, self._low, self._high)
        self.setRange(0, 99)
        self._high.setValue(99)
        self._low.valueChanged.connect(calling(self, "_take_low"))
        self._high.valueChanged.connect(calling(self, "_take_high"))

    def _take_low(self, value):
        if value > self._high.value:
            self._high.setValue(value)
        self.minimumValueChanged.emit(value)
        self.valuesChanged.emit(self._low.value, self._high.value)

    def _take_high(self, value):
        if value < self._low.value:
            self._low.setValue(value)
        self.maximumValueChanged.emit(value)
        self.valuesChanged.emit(self._low.value, self._high.value)

    minimumValue = forwarded(float, "_low", "value")
    maximumValue = forwarded(float, "_high", "value")
    minimum = Property(
        float,
        lambda self: self._low.minimum,
        lambda self, value: self.setRange(value, max(value, self._low.maximum)),
    )
    maximum = Property(
        float,
        lambda self: self._low.maximum,
        lambda self, value: self.setRange(min(value, self._low.minimum), value),
    )

    def setRange(self, minimum, maximum):
        """The smallest and largest value."""
        self._low.setRange(minimum, maximum)
        self._high.setRange(minimum, maximum)
        self.rangeChanged.emit(minimum, maximum)

    def setValues(self, low, high):
        """Both values at once."""
        before = (self._low.value, self._high.value)
        for box, value in ((self._low, low), (self._high, high)):
            was = box.blockSignals(True)
            box.setValue(value)
            box.blockSignals(was)
        after = (self._low.value, self._high.value)
        if after != before:
            self.valuesChanged.emit(*after)


@stand_in
class ctkRangeWidget(ctkDoubleRangeSlider):
    """A range with spin boxes; here the spin boxes alone."""
