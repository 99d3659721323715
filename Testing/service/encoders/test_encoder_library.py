"""Encoders to get, add and remove; a consent before any request; a token that nothing repeats."""

import json
import subprocess
import sys
import time

import pytest
from engine import dinov3_examples as examples
from service.loopback_hub import COMMIT, HUB_ID, half_files, only_hub
from service.small_site import TRAIN_OPTIONS, run
from service.worker_process import WAIT_S, WorkerProcess, wait_until_gone, without
from SpatialARAnomalyLib.engine.errors import (
    EncoderError,
    OutputError,
)
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.cli import encoders
from SpatialARAnomalyLib.service.cli.main import app
from SpatialARAnomalyLib.service.encoders import dinov3_license, registry
from SpatialARAnomalyLib.service.encoders.catalog import DEFAULT_ID, KNOWN, is_local
from SpatialARAnomalyLib.service.encoders.hub import (
    cache_folder,
    cached_folder,
    lock_repository,
    repository_folder,
)
from SpatialARAnomalyLib.service.encoders.library import (
    add_encoder,
    list_encoders,
    remove_encoder,
)
from SpatialARAnomalyLib.service.encoders.loading import hub_folder
from SpatialARAnomalyLib.service.redaction import TOKEN, redact_paths
from SpatialARAnomalyLib.service.text import size_text
from SpatialARAnomalyLib.service.user_folder import user_folder
from SpatialARAnomalyLib.service.worker.protocol import Request
from typer.testing import CliRunner

SECRET = "hf_SeCrEt0123456789"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return examples.save_transformers(examples.vit(), tmp_path_factory.mktemp("saved") / "vit é")


@pytest.fixture
def hub(saved, monkeypatch):
    with only_hub(saved, monkeypatch) as hub:
        yield hub


def get(hub_id=HUB_ID, token=None):
    return hub_folder(hub_id, allow_download=True, report=SilentReporter(), token=token)


def entry(source):
    return next((one for one in list_encoders() if one.source == source), None)


# The license


def test_the_license_is_metas_text():
    text = dinov3_license.license_text()
    assert text.startswith("# DINOv3 License\n\n*Last Updated: August 19, 2025*")
    assert "you shall provide a copy of this Agreement" in text
    assert text.rstrip().endswith("authorized representative of both you and Meta.")


def test_nothing_is_requested_before_consent(hub, site, tmp_path):
    """Whatever way the weights are asked for."""
    with pytest.raises(EncoderError) as caught:
        get(token=SECRET)
    assert caught.value.code == "license-not-accepted"
    ways = [
        ("encoders", "get", HUB_ID),
        ("encoders", "get", HUB_ID, "--json"),
        ("encoders", "check", HUB_ID, "--allow-download", "--device", "cpu"),
        ("train", *site.normals, "--out", tmp_path / "model", "--encoder", HUB_ID,
         "--allow-download", *TRAIN_OPTIONS),
        ("detect", site.normals[0], "--model", site.model, "--out", tmp_path / "out",
         "--encoder", HUB_ID, "--allow-download"),
    ]  # fmt: skip
    for way in ways:
        result = run(*way)
        assert result.exit_code == 2, (way, result.stdout, result.stderr)
        assert "must be read and accepted once" in result.stdout + result.stderr
    assert hub.requests == []
    assert not cache_folder().exists()


def test_a_consent_is_asked_for_once(hub):
    result = run("encoders", "get", HUB_ID, "--accept-license")
    assert result.exit_code == 0, result.stderr
    record = json.loads((user_folder() / "licenses.json").read_text())
    assert list(record) == ["DINOv3 License"]
    assert record["DINOv3 License"]["accepted"].endswith("Z")
    remove_encoder(HUB_ID)
    assert run("encoders", "get", HUB_ID).exit_code == 0


def test_a_changed_text_is_asked_for_again(monkeypatch, tmp_path):
    dinov3_license.accept()
    dinov3_license.require_accepted()
    changed = tmp_path / "license.md"
    changed.write_text(dinov3_license.license_text() + "9. More.")
    monkeypatch.setattr(dinov3_license, "license_file", lambda: changed)
    assert not dinov3_license.is_accepted()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"DINOv3 License": 5}', "[" * 100_000])
def test_a_broken_record_is_no_consent(text):
    dinov3_license.accept()
    (user_folder() / "licenses.json").write_text(text)
    assert not dinov3_license.is_accepted()


def test_a_consent_that_cannot_be_noted(monkeypatch, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("SPATIAL_AR_ANOMALY_HOME", str(blocked))
    with pytest.raises(OutputError, match="cannot be recorded"):
        dinov3_license.accept()
    assert run("encoders", "get", HUB_ID, "--accept-license").exit_code == 2


def test_what_is_here_needs_no_consent(hub):
    dinov3_license.accept()
    get()
    (user_folder() / "licenses.json").unlink()
    hub.requests.clear()
    assert get() == cached_folder(HUB_ID)
    result = run("encoders", "check", HUB_ID, "--size-px", 32, "--allow-download", "--json")
    assert json.loads(result.stdout.splitlines()[-1])["name"] == HUB_ID
    assert hub.requests == []


# What there is


def test_known_encoders():
    assert KNOWN[0].hub_id == DEFAULT_ID
    assert len({known.hub_id for known in KNOWN}) == len(KNOWN)
    assert KNOWN[0].download_bytes == 86_400_000
    for known in KNOWN:
        assert known.gated == known.hub_id.startswith("facebook/")
        assert known.page == f"https://huggingface.co/{known.hub_id}"
        # Four bytes a parameter, a few more that DINOv3 has for training.
        assert known.download_bytes == pytest.approx(4 * known.parameters, rel=0.01)
        assert known.memory_bytes > 2 * known.download_bytes


@pytest.mark.parametrize(
    ("size", "told"),
    [(86_400_000, "86.4 MB"), (115e6, "115 MB"), (1.21e9, "1.21 GB"), (1e12, "1,000 GB")],
)  # fmt: skip
def test_sizes(size, told):
    assert size_text(int(size)) == told


def test_the_list_follows_what_happens(hub):
    dinov3_license.accept()
    assert not is_local(HUB_ID)
    assert entry(HUB_ID) is None
    registry.remember("aa", HUB_ID)
    hub.altered = True
    with pytest.raises(EncoderError):
        get()
    assert entry(HUB_ID) is None
    hub.altered = False
    get()
    here = entry(HUB_ID)
    assert (here.here, here.own) == (True, False)
    assert here.disk_bytes > 1_000_000
    assert is_local(HUB_ID)
    listed = json.loads(run("encoders", "list", "--json").stdout)
    assert [one["source"] for one in listed if one["here"]] == [HUB_ID]
    assert HUB_ID in run("encoders", "list").stdout


def test_one_of_the_users_own(saved, hub):
    card = add_encoder(saved)
    assert registry.recall(card.weights_sha256) == str(saved)
    own = entry(str(saved))
    assert (own.title, own.here, own.own) == ("vit é", True, True)
    assert is_local(str(saved))
    assert remove_encoder(str(saved)) == 0
    assert entry(str(saved)) is None
    assert (saved / "model.safetensors").is_file()  # forgotten, not deleted
    assert hub.requests == []


@pytest.mark.parametrize("name", ["nowhere", "empty", "text.safetensors"])
def test_what_is_no_encoder_is_not_added(name, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(EncoderError):
        add_encoder(tmp_path / name)
    assert registry.sources() == []
    assert run("encoders", "add", tmp_path / name).exit_code == 2


def test_removing(hub):
    dinov3_license.accept()
    folder = get()
    beside = cache_folder() / "models--someone--else"
    beside.mkdir()
    assert remove_encoder(HUB_ID) > 1_000_000
    assert not folder.exists()
    assert not repository_folder(HUB_ID).exists()
    assert beside.is_dir()
    for source in (HUB_ID, "demonstration", "../models--someone--else", str(beside)):
        with pytest.raises(EncoderError) as caught:
            remove_encoder(source)
        assert caught.value.code == "encoder-not-here"
    assert beside.is_dir()


def test_removing_what_is_being_fetched(hub):
    dinov3_license.accept()
    get()
    with lock_repository(HUB_ID):
        with pytest.raises(EncoderError) as caught:
            remove_encoder(HUB_ID)
        assert caught.value.code == "encoder-busy"
    assert is_local(HUB_ID)


def test_what_is_no_hub_id_is_not_asked_for(hub):
    dinov3_license.accept()
    for source in ("vits16", "C:\\weights\\vits16", "/a/b", "a/b/c", "demonstration"):
        with pytest.raises(EncoderError) as caught:
            get(source)
        assert caught.value.code == "encoder-missing"
    assert hub.requests == []


# The commands


def test_the_commands(hub, saved):
    result = run("encoders", "get", HUB_ID, "--accept-license")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{HUB_ID} is on this machine (revision {COMMIT[:12]}…).\n"
    assert "Downloading: 1/1 MB" in result.stderr
    assert "removed, 1.3 MB freed." in run("encoders", "remove", HUB_ID, "--yes").stdout
    assert run("encoders", "remove", HUB_ID, "--yes").exit_code == 2
    assert "remembered" in run("encoders", "add", saved).stdout
    assert "Its files are unchanged." in run("encoders", "remove", saved, "--yes").stdout


def test_a_person_is_shown_the_license_and_asked(hub, monkeypatch):
    monkeypatch.setattr(encoders, "_at_terminal", lambda: True)

    def answered(answer, *command):
        return CliRunner().invoke(app, ["encoders", *command], input=f"{answer}\n")

    declined = answered("n", "get", HUB_ID)
    assert declined.exit_code == 2
    assert str(dinov3_license.license_file()) in declined.stderr
    assert dinov3_license.ADDRESS in declined.stderr
    assert hub.requests == []
    assert answered("y", "get", HUB_ID).exit_code == 0
    assert dinov3_license.is_accepted()
    assert answered("n", "remove", HUB_ID).exit_code == 130
    assert is_local(HUB_ID)
    assert answered("y", "remove", HUB_ID).exit_code == 0
    assert "Do you accept" not in answered("", "get", HUB_ID).stderr


def test_a_token_comes_by_standard_input(hub):
    hub.token = SECRET
    dinov3_license.accept()
    code = "from SpatialARAnomalyLib.service.cli.main import main; main()"
    command = [sys.executable, "-W", "error", "-c", code, "encoders", "get", HUB_ID]

    def ended(*options, said=""):
        return subprocess.run(
            [*command, "--json", *options], input=said, capture_output=True, text=True, check=False
        )

    refused = ended()
    assert json.loads(refused.stdout.splitlines()[-1])["code"] == "encoder-gated"
    wrong = ended("--token-stdin", said="hf_wrongSeCrEt")
    assert wrong.returncode == 2
    assert "SeCrEt" not in wrong.stdout + wrong.stderr
    got = ended("--token-stdin", said=f"{SECRET}\n")
    last = json.loads(got.stdout.splitlines()[-1])
    assert last == {"id": 1, "event": "result", "source": HUB_ID, "revision": COMMIT}
    assert SECRET not in got.stdout + got.stderr


# The worker


@pytest.fixture
def worker(hub, tmp_path):
    packages = ("torch", "transformers", "jaxtyping", "typer", "safetensors", "huggingface_hub")
    with WorkerProcess(tmp_path / "desk", without(*packages)) as process:
        yield process
        process.close()
        said = b"".join(process.lines).decode() + process.log
        said += "".join(one.read_text() for one in user_folder().rglob("*") if one.is_file())
        assert "SeCrEt" not in said


def test_the_worker_fetches_without_torch(worker, hub):
    failed = worker.failure("encoder_get", {"source": HUB_ID, "token": SECRET})
    assert failed["code"] == "license-not-accepted"
    assert hub.requests == []
    dinov3_license.accept()
    hub.token = SECRET
    events = worker.events_of(worker.submit("encoder_get", {"source": HUB_ID, "token": SECRET}))
    assert events[-1]["event"] == "result", events[-1]
    assert (events[-1]["source"], events[-1]["revision"]) == (HUB_ID, COMMIT)
    assert {event["unit"] for event in events if event["event"] == "progress"} == {"byte"}
    assert worker.result("encoder_remove", {"source": HUB_ID})["freed_bytes"] > 1_000_000
    assert worker.failure("encoder_check", {"source": HUB_ID})["code"] == "package-missing"


def test_the_worker_never_repeats_a_token(worker, hub):
    """Whatever is wrong with the request or the answer."""
    dinov3_license.accept()
    hub.refusal = (401, {"X-Error-Message": SECRET})
    for inputs in (
        {"source": HUB_ID, "token": SECRET},
        {"source": HUB_ID, "token": SECRET + "\r\nX: 1"},
        {"source": HUB_ID, "token": [SECRET]},
        {"source": HUB_ID, "token": {SECRET: SECRET}},
        {"source": HUB_ID, "token": SECRET, "more": SECRET},
        {"source": [SECRET], "token": SECRET},
        {"source": SECRET, "token": SECRET},
        {"token": SECRET},
    ):
        worker.failure("encoder_get", inputs)
    worker.failure("encoder_get", {"source": HUB_ID, "token": SECRET}, {"size": SECRET})
    request = {"protocol": 1, "id": 90, "job": "encoder_get", "inputs": {"token": SECRET}}
    for line in (
        json.dumps(request).encode()[:-1],
        json.dumps(request | {"spec": SECRET}).encode(),
        json.dumps(request | {"protocol": 9}).encode(),
        json.dumps(request | {"output": 5, "job": "detect"}).encode(),
    ):
        worker.say(line)
        assert worker.event()["event"] == "failed"


def test_a_token_is_left_out_of_the_log():
    request = Request(id=1, job="encoder_get", inputs={"source": "a/b", TOKEN: f"{SECRET}\n"})
    assert redact_paths(f"header 'Bearer {SECRET}\\n' and {SECRET}", request) == (
        "header 'Bearer <token>' and <token>"
    )
    assert SECRET not in repr(request)


def half_a_download(worker, hub):
    """Begin a download that then stalls for ever; its id."""
    dinov3_license.accept()
    hub.stall_s = 3600.0
    number = worker.submit("encoder_get", {"source": HUB_ID})
    until = time.monotonic() + WAIT_S
    while not half_files():
        assert time.monotonic() < until
        time.sleep(0.02)
    return number


def test_a_killed_worker_takes_its_download_along(worker, hub):
    half_a_download(worker, hub)
    worker.process.kill()
    worker.process.wait()
    wait_until_gone(worker.process.pid)
    assert not is_local(HUB_ID)
    hub.stall_s = 0.0
    assert get() == cached_folder(HUB_ID)
    assert half_files() == []


def test_a_download_can_be_cancelled(worker, hub):
    number = half_a_download(worker, hub)
    worker.say({"cancel": number})
    assert worker.events_of(number)[-1]["event"] == "cancelled"
    assert not is_local(HUB_ID)
    assert half_files() == []
    hub.stall_s = 0.0
    assert worker.result("encoder_get", {"source": HUB_ID})["revision"] == COMMIT
