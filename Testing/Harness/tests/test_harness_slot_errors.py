"""What slots, observers and event handlers raise reaches no caller, and is collected."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import qt
from Harness import run_events, slot_errors, wait_until


def _fail(*_):
    raise KeyError("lost")


def test_an_error_of_a_slot_stops_neither_the_caller_nor_other_slots(app) -> None:
    got = []
    button = qt.QPushButton()
    button.clicked.connect(_fail)
    button.clicked.connect(lambda: got.append(1))
    with slot_errors.expected_slot_errors() as errors:
        button.click()
    assert got == [1]
    assert [type(error) for error in errors] == [KeyError]
    assert "in _fail" in slot_errors.described(errors)


def test_a_timer_goes_on_after_an_error(app) -> None:
    calls = []

    def fail():
        calls.append(1)
        _fail()

    timer = qt.QTimer()
    timer.timeout.connect(fail)
    timer.start(1)
    with slot_errors.expected_slot_errors() as errors:
        wait_until(lambda: len(calls) > 1, 10, "a second call")
    timer.stop()
    assert len(errors) == len(calls)


def test_an_observer_of_vtk_is_collected_too(scene) -> None:
    import vtk

    tag = scene.AddObserver(vtk.vtkCommand.ModifiedEvent, _fail)
    with slot_errors.expected_slot_errors() as errors:
        scene.Modified()
    scene.RemoveObserver(tag)
    assert [type(error) for error in errors] == [KeyError]


def test_event_handlers_report_and_an_event_filter_then_filters_nothing(app) -> None:
    class Filter(qt.QObject):
        def eventFilter(self, watched, event):
            if event.type() == qt.QEvent.Resize:
                _fail()

    class Panel(qt.QWidget):
        resized = 0

        def resizeEvent(self, event):
            Panel.resized += 1
            _fail()

    panel, event_filter = Panel(), Filter()
    panel.installEventFilter(event_filter)
    panel.show()
    run_events()
    slot_errors.taken()
    before = Panel.resized
    with slot_errors.expected_slot_errors() as errors:
        panel.resize(300, 200)
        run_events()
    panel.hide()
    assert Panel.resized == before + 1
    assert len(errors) == 2


def test_leaving_the_program_in_a_slot_is_collected(app) -> None:
    button = qt.QPushButton()
    button.clicked.connect(lambda: sys.exit(3))
    with slot_errors.expected_slot_errors() as errors:
        button.click()
    assert [type(error) for error in errors] == [SystemExit]


def test_an_interruption_in_a_slot_ends_the_waiting(app) -> None:
    def interrupt():
        raise KeyboardInterrupt

    qt.QTimer.singleShot(0, interrupt)
    with pytest.raises(KeyboardInterrupt):
        wait_until(lambda: False, 10, "nothing")


def test_the_fixture_fails_a_test_with_a_silent_error(tmp_path) -> None:
    """Run in another process, where such a test may fail."""
    here = tmp_path / "test_silent.py"
    here.write_text(
        textwrap.dedent(
            """
            import qt

            def test_silent(app):
                button = qt.QPushButton()
                button.clicked.connect(lambda: 1 / 0)
                button.click()
            """
        )
    )
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(here)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "raised in slots or observers" in done.stdout
    assert "ZeroDivisionError" in done.stdout
