"""Connections: which form of a signal is delivered, and with how many arguments."""

import functools
import gc

import pytest
import qt
import shiboken6
from Harness import run_events, set_qt_form, slot_errors, wait_until


@pytest.fixture
def button(app):
    return qt.QPushButton()


class Receiver:
    """Takes what signals bring."""

    def __init__(self):
        self.got = []

    def none(self):
        self.got.append(())

    def one(self, value):
        self.got.append((value,))

    def perhaps(self, value="default"):
        self.got.append((value,))

    def every(self, *values):
        self.got.append(values)

    def keyword(self, *, value="default"):
        self.got.append((value,))

    @staticmethod
    def static(received):
        Receiver.last = received


@pytest.mark.parametrize(
    ("slot", "expected"),
    [("none", ()), ("one", (False,)), ("perhaps", (False,)), ("every", (False,))],
)
def test_python_slots_get_as_many_arguments_as_they_have(button, slot: str, expected) -> None:
    receiver = Receiver()
    button.clicked.connect(getattr(receiver, slot))
    button.click()
    assert receiver.got == [expected]


def test_keyword_only_arguments_are_never_filled(button) -> None:
    receiver = Receiver()
    button.clicked.connect(receiver.keyword)
    button.click()
    assert receiver.got == [("default",)]


def test_a_default_of_a_lambda_counts_as_an_argument(button) -> None:
    got = []
    for i in range(2):
        button.clicked.connect(lambda i=i: got.append(i))
        button.clicked.connect(lambda *_, i=i: got.append(i))
    button.click()
    assert got == [False, 0, False, 1]


def test_a_partial_gets_every_argument(button) -> None:
    receiver = Receiver()
    button.clicked.connect(functools.partial(receiver.every, "first"))
    button.click()
    assert receiver.got == [("first", False)]
    with slot_errors.expected_slot_errors() as errors:
        button.clicked.connect(functools.partial(receiver.none))
        button.click()
    assert [type(error) for error in errors] == [TypeError]


def test_a_callable_object_gets_every_argument(button) -> None:
    class Callable:
        def __call__(self):
            raise AssertionError("never called")

    button.clicked.connect(Callable())
    with slot_errors.expected_slot_errors() as errors:
        button.click()
    assert [type(error) for error in errors] == [TypeError]


def test_a_qt_slot_refuses_surplus_arguments_and_does_not_run(button) -> None:
    dialog = qt.QDialog()
    dialog.setResult(7)
    button.clicked.connect(dialog.accept)
    with slot_errors.expected_slot_errors() as errors:
        button.click()
    assert dialog.result() == 7
    assert [type(error) for error in errors] == [ValueError]
    assert "accept" in str(errors[0])


def test_a_qt_slot_runs_for_a_signal_without_arguments(app) -> None:
    dialog, box = qt.QDialog(), qt.QDialogButtonBox()
    box.setStandardButtons(qt.QDialogButtonBox.Ok)
    box.accepted.connect(dialog.accept)
    box.button(qt.QDialogButtonBox.Ok).click()
    assert dialog.result() == 1


def test_a_signature_says_what_is_delivered(button) -> None:
    receiver = Receiver()
    assert button.connect("clicked()", receiver.every) is True
    assert button.connect("clicked( bool )", receiver.every) is True
    button.click()
    assert receiver.got == [(), (False,)]


def test_a_signature_can_name_a_slot_of_another_object(button) -> None:
    edit = qt.QLineEdit("text")
    assert button.connect("clicked()", edit, "clear()")
    button.click()
    assert edit.text == ""


def test_a_wrong_signature_is_refused_and_collected(button) -> None:
    with slot_errors.expected_slot_errors() as errors:
        assert button.connect("clickd()", print) is False
    assert "signal 'clickd()' does not exist on QPushButton" in str(errors[0])
    with pytest.raises(AttributeError):
        _ = button.clickd


def test_there_are_no_brackets_to_choose_an_overload(button) -> None:
    with pytest.raises(TypeError, match="not subscriptable"):
        _ = button.clicked[bool]


def test_disconnecting_what_is_not_connected_says_false(button) -> None:
    receiver = Receiver()
    assert button.clicked.disconnect(receiver.none) is False
    assert button.disconnect("clicked()", receiver.none) is False


def test_two_connections_call_twice_and_go_one_by_one(button) -> None:
    receiver = Receiver()
    button.clicked.connect(receiver.none)
    button.clicked.connect(receiver.none)
    button.click()
    assert len(receiver.got) == 2
    assert button.clicked.disconnect(receiver.none) is True
    button.click()
    assert len(receiver.got) == 3
    button.clicked.connect(receiver.one)
    button.clicked.disconnect()
    button.click()
    assert len(receiver.got) == 3


def test_a_connection_by_signature_is_undone_by_either_way(button) -> None:
    receiver = Receiver()
    button.connect("clicked(bool)", receiver.none)
    assert button.clicked.disconnect(receiver.none)
    button.clicked.connect(receiver.none)
    assert button.disconnect("clicked(bool)", receiver.none)
    button.click()
    assert receiver.got == []


def test_a_slot_keeps_its_object_alive_until_the_sender_goes(app) -> None:
    class Counted(Receiver):
        alive = 0

        def __init__(self):
            super().__init__()
            Counted.alive += 1

        def __del__(self):
            Counted.alive -= 1

    sender = qt.QPushButton()
    sender.clicked.connect(Counted().none)
    gc.collect()
    assert Counted.alive == 1
    shiboken6.delete(sender)
    gc.collect()
    assert Counted.alive == 0


def _finished(*args_of) -> list:
    receiver = Receiver()
    process = qt.QProcess()
    for connect in args_of:
        connect(process, receiver)
    process.start("true", [])
    wait_until(lambda: receiver.got, 10, "the end of the process")
    return receiver.got


def test_the_end_of_a_process_comes_in_the_form_of_qt_5(app) -> None:
    assert _finished(lambda p, r: p.finished.connect(r.every)) == [(0,)]
    assert _finished(lambda p, r: p.connect("finished(int)", r.every)) == [(0,)]
    long = _finished(lambda p, r: p.connect("finished(int,QProcess::ExitStatus)", r.every))
    assert long == [(0, qt.QProcess.NormalExit)]


def test_a_slot_of_two_arguments_for_the_end_of_a_process_fails_in_qt_5(app) -> None:
    def finished(code, status):
        raise AssertionError("never called")

    with slot_errors.expected_slot_errors() as errors:
        _finished(
            lambda p, _: p.finished.connect(finished), lambda p, r: p.finished.connect(r.every)
        )
    assert [type(error) for error in errors] == [TypeError]


def test_the_form_of_qt_6_can_be_chosen(app) -> None:
    set_qt_form(6)
    try:
        assert _finished(lambda p, r: p.finished.connect(r.every)) == [(0, qt.QProcess.NormalExit)]
    finally:
        set_qt_form(5)
    with pytest.raises(ValueError, match="Qt 5 or Qt 6"):
        set_qt_form(4)


def test_a_combo_box_brings_the_index(app) -> None:
    receiver, box = Receiver(), qt.QComboBox()
    box.addItems(["a", "b"])
    box.currentIndexChanged.connect(receiver.every)
    box.currentTextChanged.connect(receiver.every)
    box.setCurrentIndex(1)
    assert sorted(receiver.got, key=str) == [("b",), (1,)]


def test_custom_signals_work_on_qt_objects(app) -> None:
    class Source(qt.QObject):
        changed = qt.Signal(int, object)

    class FurtherSource(Source):
        pass

    for cls in (Source, FurtherSource):
        source, receiver = cls(), Receiver()
        source.changed.connect(receiver.every)
        source.changed.emit(3, {"a": 1})
        assert receiver.got == [(3, {"a": 1})]


def test_custom_signals_on_plain_classes_would_crash(app) -> None:
    class Source:
        changed = qt.Signal(int)

    for call in (lambda: Source().changed.connect(print), lambda: Source().changed.emit(3)):
        with pytest.raises(TypeError, match=r"would crash here: Source\.changed"):
            call()


def test_there_is_no_sender(button) -> None:
    got = []

    class Panel(qt.QWidget):
        def clicked(self):
            got.append(self.sender())

    panel = Panel()
    button.clicked.connect(panel.clicked)
    button.click()
    assert got == [None]


def test_a_timer_nobody_keeps_never_fires(app) -> None:
    got = []

    def start(keep):
        timer = qt.QTimer()
        timer.timeout.connect(lambda: got.append(keep))
        timer.start(1)
        return timer if keep else None

    kept = start(True)
    start(False)
    run_events(0.05)
    kept.stop()
    assert got
    assert set(got) == {True}


def test_a_single_shot_keeps_its_function(app) -> None:
    got = []
    qt.QTimer.singleShot(1.0, lambda: got.append(1))
    gc.collect()
    wait_until(lambda: got, 5, "the shot")


def test_a_single_shot_at_a_named_slot_and_one_that_starts_another(app) -> None:
    """Slicer has its own function in place of Qt's; its timers have a parent."""
    edit, got = qt.QLineEdit("text"), []
    qt.QTimer.singleShot(0, edit, "clear()")
    qt.QTimer.singleShot(0, lambda: qt.QTimer.singleShot(0, lambda: got.append(1)))
    wait_until(lambda: got, 5, "the second shot")
    assert edit.text == ""
