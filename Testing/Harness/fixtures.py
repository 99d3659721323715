"""Fixtures for tests that run on the harness; a `conftest.py` imports those it needs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from Harness import (
    LoadedModule,
    load_scripted_module,
    slot_errors,
    start,
    why_no_rendering,
)


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`slicer.app`, with its settings and files in a folder of the tests."""
    return start(tmp_path_factory.mktemp("slicer"))


@pytest.fixture(autouse=True)
def _no_slot_errors(app: Any) -> Iterator[None]:
    """Fail the test for exceptions in slots, observers and event handlers."""
    slot_errors.taken()
    yield
    if errors := slot_errors.taken():
        pytest.fail(f"raised in slots or observers:\n{slot_errors.described(errors)}")


@pytest.fixture
def scene(app: Any) -> Iterator[Any]:
    """The scene with its default nodes and layout only."""
    app.mrmlScene().Clear(False)
    if app.layoutManager() is not None:
        app.layoutManager().setLayout(3)
    yield app.mrmlScene()
    app.mrmlScene().Clear(False)


@pytest.fixture
def settings(app: Any) -> Iterator[Any]:
    """The user's settings, empty."""
    app.userSettings().clear()
    yield app.userSettings()
    app.userSettings().clear()


@pytest.fixture
def load_module(scene: Any) -> Iterator[Callable[[Path | str], LoadedModule]]:
    """Loads a scripted module, which is unloaded at the end of the test."""
    loaded: list[LoadedModule] = []

    def load(path: Path | str) -> LoadedModule:
        loaded.append(load_scripted_module(path))
        return loaded[-1]

    yield load
    for module in reversed(loaded):
        module.unload()


@pytest.fixture
def rendering(app: Any) -> None:
    """Skip the test if off-screen rendering is not possible."""
    if reason := why_no_rendering():
        pytest.skip(reason)
