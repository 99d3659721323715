"""The section *Encoders*, with a hub on loopback and real worker processes."""

import pytest
from engine import dinov3_examples as examples
from Harness import run_events, wait_until
from service.loopback_hub import HUB_ID, half_files, only_hub
from slicerapp.tooltips import tip
from SpatialARAnomalyLib.service.encoders import dinov3_license, registry
from SpatialARAnomalyLib.service.encoders.catalog import DEFAULT_ID
from SpatialARAnomalyLib.service.encoders.hub import cached_folder
from SpatialARAnomalyLib.service.user_folder import user_folder

pytestmark = pytest.mark.slow

WAIT_S = 60
SECRET = "hf_SeCrEt0123456789"
GATED = "facebook/dinov3-vits16-pretrain-lvd1689m"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return examples.save_transformers(examples.vit(), tmp_path_factory.mktemp("saved") / "vit é")


@pytest.fixture
def hub(saved, monkeypatch):
    with only_hub(saved, monkeypatch) as hub:
        yield hub


@pytest.fixture
def panel(hub, opened, dialogs):
    """The section, whose questions are answered with yes, and the loopback hub's encoder chosen."""
    encoders = opened.widget.panel.encoders
    dialogs.yes = True
    encoders.obtain(HUB_ID)
    return encoders


@pytest.fixture
def own_worker(app):
    """The warm one has the settings of the test it was started in."""
    from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

    worker = WorkerProcess()
    yield worker
    worker.stop()


def status(panel):
    return panel._ui.encodersStatusLabel.text


def click(panel, name):
    """Click a button and wait for what it starts; return the status."""
    button = getattr(panel._ui, f"encoders{name}Button")
    assert button.isEnabled(), button.toolTip
    button.click()
    wait_until(lambda: not panel.busy, WAIT_S, name)
    return status(panel)


def cell(panel, column):
    table = panel._ui.encodersTable
    return table.item(table.selectionModel().selectedRows()[0].row(), column).text()


@pytest.mark.slow
def test_get_check_remove(panel, dialogs, hub, own_worker):
    panel.worker = own_worker
    changed = []
    panel.onChanged = lambda: changed.append(1)
    assert tip(panel._ui.encodersCheckButton) == "It is not on this machine: get it first."
    assert click(panel, "Get") == "Downloaded. Click Check to test it."
    assert dialogs.licenses == [True]
    assert dinov3_license.is_accepted()
    assert cached_folder(HUB_ID) is not None
    assert cell(panel, 4) == "✓ 1.33 MB"
    assert tip(panel._ui.encodersGetButton) == "It is on this machine."
    assert "which you accepted" in panel._ui.encodersLicenseLabel.text
    hub.requests.clear()
    text = click(panel, "Check")
    assert text.startswith("It works: ")
    assert text.endswith(" s for a slice of 448 px on cpu.")
    assert hub.requests == []
    assert click(panel, "Remove") == "Deleted. 1.33 MB of disk are free again."
    assert cached_folder(HUB_ID) is None
    assert len(changed) == 3
    click(panel, "Get")
    assert dialogs.licenses == [True]  # asked once


def test_nothing_is_requested_without_consent(panel, dialogs, hub):
    dialogs.accepts = False
    assert click(panel, "Get") == "Nothing was downloaded: the license was not accepted."
    assert hub.requests == []
    assert not dinov3_license.is_accepted()
    panel._ui.encodersLicenseLabel.linkActivated.emit("license")
    assert dialogs.licenses == [True, False]


def test_progress_cancel_and_again(panel, hub):
    hub.stall_s = 3600.0
    ui = panel._ui
    ui.encodersGetButton.click()
    assert ui.encodersGetButton.text == "Cancel"
    assert tip(ui.encodersCheckButton) == "Wait for the running task."
    wait_until(half_files, WAIT_S, "half of the weights")
    assert status(panel).startswith("Downloading: ")
    assert " of 1.33 MB" in status(panel)
    assert ui.encodersProgressBar.isVisibleTo(ui.encodersSection)
    ui.encodersGetButton.click()
    assert status(panel) == "Cancelling…"
    wait_until(lambda: not panel.busy, WAIT_S, "the end")
    assert status(panel) == "Cancelled. Nothing was changed."
    assert half_files() == []
    assert cell(panel, 4) == ""
    hub.stall_s = 0
    assert click(panel, "Get") == "Downloaded. Click Check to test it."


def test_a_failure_says_what_to_do(panel, hub):
    hub.refusal = (429, {"Retry-After": "90"})
    message = click(panel, "Get")
    assert message.startswith("⚠ '127.0.0.1")
    assert message.endswith(" Wait 90 s, then try again.")
    assert panel._ui.encodersGetButton.text == "Get…"


def test_a_gated_encoder_and_its_token(panel, hub, settings, app):
    ui = panel._ui
    assert ui.encodersTokenEdit.isVisibleTo(ui.encodersSection)  # nobody knows
    panel.obtain(DEFAULT_ID)
    assert not ui.encodersTokenEdit.isVisibleTo(ui.encodersSection)
    panel.obtain(GATED)
    assert ui.encodersTokenEdit.isVisibleTo(ui.encodersSection)
    assert f"<a href='https://huggingface.co/{GATED}'>its page</a>" in ui.encodersDetailLabel.text
    import qt

    assert ui.encodersTokenEdit.echoMode == qt.QLineEdit.Password
    hub.refusal = (401, {"X-Error-Message": SECRET})
    ui.encodersTokenEdit.setText(SECRET)
    assert "The hub does not accept the token" in click(panel, "Get")
    assert ui.encodersTokenEdit.text == ""
    authorizations = {headers.get("authorization") for _, _, headers in hub.requests}
    assert authorizations == {f"Bearer {SECRET}"}
    kept = "".join(one.read_text() for one in user_folder().rglob("*") if one.is_file())
    settings.sync()
    with open(settings.fileName(), encoding="utf-8") as file:
        kept += file.read()
    kept += ui.logText.toPlainText() + app.mrmlScene().GetURL() + status(panel)
    assert "SeCrEt" not in kept


def test_ones_own_folder(panel, dialogs, hub, saved, own_worker):
    panel.worker = own_worker
    dialogs.path = saved
    assert click(panel, "AddFolder") == "Added: vit é (DINOv3ViT)."
    assert cell(panel, 0) == "vit é"
    assert cell(panel, 3) == "your own"
    assert click(panel, "Remove") == "Removed from the list. Its files were kept."
    assert (saved / "model.safetensors").is_file()
    dialogs.path = saved / "model.safetensors"
    assert click(panel, "AddFile") == "Added: model (DINOv3ViT)."
    assert len(registry.sources()) == 1
    dialogs.path = saved / "config.json"
    assert click(panel, "AddFile").startswith("⚠ Weights must be in a .safetensors file")
    dialogs.path = ""
    panel._ui.encodersAddFileButton.click()
    assert not panel.busy
    assert hub.requests == []


def test_who_declines_keeps_it(panel, dialogs):
    click(panel, "Get")
    dialogs.yes = False
    click(panel, "Remove")
    assert cached_folder(HUB_ID) is not None
    assert "Other programs that share the hub's cache lose it, too." in dialogs.questions[0]


def test_leading_to_an_encoder(panel):
    ui = panel._ui
    ui.encodersSection.collapsed = True
    panel.obtain("someone/dinov3-of-theirs")
    assert not ui.encodersSection.collapsed
    assert cell(panel, 0) == "someone/dinov3-of-theirs"
    assert ui.encodersGetButton.isEnabled()
    panel.obtain("vits16-local")
    assert "'vits16-local' came from a folder or file." in status(panel)
    assert tip(ui.encodersGetButton) == "Choose an encoder in the table."
    panel.reload()
    run_events()


def test_the_real_license_dialog(panel):
    import qt
    from SpatialARAnomalyLib.slicerapp.panels.Dialogs import Dialogs

    dialogs = Dialogs(panel._ui.encodersSection)
    seen = []

    def answer(role):
        def press():
            dialog = qt.QApplication.activeModalWidget()
            if dialog is None:
                return
            timer.stop()
            seen.append(dialog.findChild(qt.QTextEdit).toPlainText())
            box = dialog.findChild(qt.QDialogButtonBox)
            next(one for one in box.buttons() if box.buttonRole(one) == role).click()

        timer = qt.QTimer(panel._ui.encodersSection)
        timer.timeout.connect(press)
        timer.start(20)

    for role, ask, accepted in (
        (qt.QDialogButtonBox.AcceptRole, True, True),
        (qt.QDialogButtonBox.RejectRole, True, False),
        (qt.QDialogButtonBox.RejectRole, False, False),
    ):
        answer(role)
        assert dialogs.showLicense(ask=ask) is accepted
    assert all("DINOv3 License" in text and "California" in text for text in seen)
    assert len(seen) == 3
