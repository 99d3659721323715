"""Settings lie in typer's folder for applications, without importing typer."""

import sys
from pathlib import Path

import pytest
import typer
from SpatialARAnomalyLib.service.user_folder import HOME_VARIABLE, models_folder, user_folder


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("variables", [{}, {"XDG_CONFIG_HOME": "/x y"}, {"APPDATA": "/ö"}])
def test_it_is_the_folder_that_typer_names(monkeypatch, platform, variables):
    for name in (HOME_VARIABLE, "XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    module = sys.modules[typer.get_app_dir.__module__]
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(module, "WIN", platform == "win32")
    assert user_folder() == Path(typer.get_app_dir("spatial-ar-anomaly"))


def test_the_variable_moves_it_with_its_models(monkeypatch, tmp_path):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "elsewhere"))
    assert user_folder() == tmp_path / "elsewhere"
    assert models_folder() == tmp_path / "elsewhere" / "models"
    assert not user_folder().exists()
