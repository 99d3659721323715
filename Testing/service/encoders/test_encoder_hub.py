"""Downloads from a hub on loopback: progress, cancel, hashes, errors, logins.

Most tests call `fetch`, which the child process runs; those of `download` start that process.
"""

import errno
import os
import shutil
import socket
import ssl
import time
import urllib.request
from collections import namedtuple

import huggingface_hub
import pytest
import torch
from engine import dinov3_examples as examples
from filelock import FileLock
from service.loopback_hub import COMMIT, HUB_ID, git_hash, only_hub
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder as load_engine_encoder
from SpatialARAnomalyLib.engine.errors import Cancelled, EncoderError
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.cli.hints import hint
from SpatialARAnomalyLib.service.encoders import dinov3_license
from SpatialARAnomalyLib.service.encoders import hub as encoder_hub
from SpatialARAnomalyLib.service.encoders.hub import (
    cache_folder,
    cached_bytes,
    cached_folder,
    connect,
    download,
    fetch,
    lock_repository,
    repository_folder,
)
from SpatialARAnomalyLib.service.encoders.hub_errors import Connection, translate
from SpatialARAnomalyLib.service.encoders.loading import load_encoder

pytestmark = pytest.mark.slow

TOKEN = "hf_SeCrEt0123456789"
CONNECTION = Connection(hub_id=HUB_ID, endpoint="https://hub.example", proxy=None, timeout_s=1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return examples.save_transformers(examples.vit(), tmp_path_factory.mktemp("saved") / "vit")


@pytest.fixture(scope="module")
def files(saved):
    return {name: (saved / name).read_bytes() for name in ("config.json", "model.safetensors")}


@pytest.fixture
def hub(saved, monkeypatch):
    huggingface_hub.close_session()  # its client keeps the proxies of the test before
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    with only_hub(saved, monkeypatch) as hub:
        yield hub
    huggingface_hub.close_session()


class Progress(SilentReporter):
    """Notes the bytes done, and cancels from `cancel_at` on."""

    def __init__(self, cancel_at=None):
        self.steps = []
        self._cancel_at = cancel_at

    def progress(self, done, total, unit):
        assert unit == "byte"
        self.steps.append((done, total))

    def check_cancelled(self):
        if self._cancel_at is not None and self.steps and self.steps[-1][0] >= self._cancel_at:
            raise Cancelled


def get(token=None, report=None, hub_id=HUB_ID):
    dinov3_license.accept()
    return download(hub_id, report or SilentReporter(), token)


def failure(**options):
    with pytest.raises(EncoderError) as caught:
        get(**options)
    return caught.value


def fetch_failure(token=None, hub_id=HUB_ID):
    """Return the error of a download, without a child process."""
    connection = connect(hub_id)
    try:
        fetch(connection, encoder_hub._login(token, connection), lambda done, total: None)
    except Exception as error:
        assert cached_folder(hub_id) is None
        return translate(error, connection)
    pytest.fail("the download succeeded")


def contents(folder):
    return {one.name: one.read_bytes() for one in folder.iterdir()}


def blobs():
    return {one.name for one in (repository_folder(HUB_ID) / "blobs").glob("*")}


# A download


def test_a_download(hub, files, saved, monkeypatch):
    hub.files |= {"README.md": b"text", "pytorch_model.bin": b"a pickle"}
    monkeypatch.setenv("AI_AGENT", "someone")  # huggingface_hub tells its server
    report = Progress()
    folder = get(report=report)
    assert folder == cached_folder(HUB_ID)
    assert folder.name == COMMIT
    assert contents(folder) == files
    total = sum(map(len, files.values()))
    done = [done for done, _ in report.steps]
    assert done == sorted(done)
    assert len(set(done)) > 4
    assert report.steps[-1] == (total, total)
    assert cached_bytes(HUB_ID) >= total
    agents = {headers["user-agent"] for _, _, headers in hub.requests}
    assert all(one.startswith("spatial-ar-anomaly/") and "torch" not in one for one in agents)
    assert {path.split("/")[1] for _, path, _ in hub.requests} == {"api", "timm", "cdn"}
    assert not any("agent" in path for _, path, _ in hub.requests)
    encoder = load_encoder(HUB_ID, device="cpu", allow_download=False)
    assert (encoder.card.name, encoder.card.revision) == (HUB_ID, COMMIT)
    own = load_engine_encoder(str(saved))
    assert encoder.card.weights_sha256 == own.card.weights_sha256
    assert torch.equal(encoder.embed(examples.images()), own.embed(examples.images()))


def test_loading_downloads_once_and_only_where_allowed(hub):
    with pytest.raises(EncoderError) as caught:
        load_encoder(HUB_ID, device="cpu", allow_download=False)
    assert caught.value.code == "encoder-not-local"
    with pytest.raises(EncoderError) as caught:
        load_encoder(HUB_ID, device="cpu", allow_download=True)
    assert caught.value.code == "license-not-accepted"
    assert hub.requests == []
    dinov3_license.accept()
    for _ in range(2):
        assert load_encoder(HUB_ID, device="cpu", allow_download=True).card.revision == COMMIT
        asked = len(hub.requests)
    load_encoder(HUB_ID, device="cpu", allow_download=True)
    assert len(hub.requests) == asked


def test_the_hubs_own_programs_find_it(hub, files):
    folder = get()
    for name in files:
        found = huggingface_hub.try_to_load_from_cache(HUB_ID, name, cache_dir=cache_folder())
        assert found == str(folder / name)
    (repository,) = huggingface_hub.scan_cache_dir(cache_folder()).repos
    assert repository.repo_id == HUB_ID


def test_shards(hub, saved, tmp_path):
    hub.files = contents(examples.shard(saved, tmp_path / "sharded"))
    assert contents(get()) == hub.files


def test_a_shard_that_is_not_there(hub, saved, tmp_path):
    hub.files = contents(examples.shard(saved, tmp_path / "sharded"))
    del hub.files[max(name for name in hub.files if name.endswith(".safetensors"))]
    assert failure().code == "encoder-missing"
    assert cached_folder(HUB_ID) is None


def test_a_broken_connection_is_taken_up_again(hub, files):
    arrived = 2 * encoder_hub.CHUNK_BYTES
    hub.cuts = [arrived]
    assert contents(get()) == files
    assert hub.ranges_asked == [f"bytes={arrived}-"]


def test_a_machine_without_links(hub, files, monkeypatch):
    """Windows allows links only to some users: then a file itself takes the name."""
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "1")
    assert contents(get()) == files
    shutil.rmtree(repository_folder(HUB_ID))
    hub.altered = True
    assert failure().code == "encoder-wrong-bytes"
    hub.altered = False
    assert contents(get()) == files


# Cancel


def test_a_cancel_kills_a_silent_download_and_the_next_one_starts_again(hub, files):
    hub.stall_s = 3600.0
    with pytest.raises(Cancelled):
        get(report=Progress(cancel_at=len(files["model.safetensors"]) // 4))
    assert cached_folder(HUB_ID) is None
    assert blobs() == {git_hash(files["config.json"])}  # no half file
    hub.stall_s = 0.0
    assert contents(get()) == files
    assert hub.ranges_asked == []


def test_leftovers_of_others_stay_while_they_are_written(hub):
    folder = repository_folder(HUB_ID) / "blobs"
    folder.mkdir(parents=True)
    for name in ("aa.12345678.incomplete", "bb.12345678.incomplete"):
        (folder / name).write_bytes(b"half")
    locks = cache_folder() / ".locks" / repository_folder(HUB_ID).name
    locks.mkdir(parents=True)
    with FileLock(locks / "aa.lock"):
        get()
    assert "aa.12345678.incomplete" in blobs()
    assert "bb.12345678.incomplete" not in blobs()


def test_one_download_at_a_time(hub):
    with lock_repository(HUB_ID):
        assert failure().code == "encoder-busy"
    assert hub.requests == []
    get()


# What arrives is verified


def test_wrong_bytes_are_refused_and_removed(hub, files):
    hub.altered = True
    error = failure()
    assert error.code == "encoder-wrong-bytes"
    assert (
        "The model.safetensors that arrived differs from the one the hub announced" in error.message
    )
    assert cached_folder(HUB_ID) is None
    assert not list(repository_folder(HUB_ID).rglob("model.safetensors"))
    assert blobs() == {git_hash(files["config.json"])}
    hub.altered = False
    assert contents(get()) == files


def test_a_blob_of_another_program_is_verified(hub, files):
    get()
    weights = max((repository_folder(HUB_ID) / "blobs").iterdir(), key=os.path.getsize)
    weights.write_bytes(bytes(weights.stat().st_size))
    (repository_folder(HUB_ID) / "refs" / "main").unlink()
    assert failure().code == "encoder-wrong-bytes"
    assert contents(get()) == files


def test_what_cannot_be_verified_is_not_fetched(hub):
    hub.hashes = False
    error = fetch_failure()
    assert error.code == "encoder-unverified"
    assert "size and hash of model.safetensors" in error.message
    assert hub.sent == 0


# What the hub answers


@pytest.mark.parametrize(
    ("status", "headers", "token", "code", "message"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, None, "encoder-gated", "no account is logged in"),
        (401, {}, None, "encoder-gated", "no account is logged in"),
        (401, {"X-Error-Code": "RepoNotFound"}, None, "encoder-missing", "or it is private"),
        (401, {"X-Error-Code": "GatedRepo"}, TOKEN, "encoder-gated", "yours was not"),
        (401, {}, TOKEN, "encoder-token", "does not accept the token"),
        (403, {"X-Error-Code": "GatedRepo"}, TOKEN, "encoder-gated", "yours was not"),
        (403, {}, None, "encoder-gated", "a web filter of this network"),
        (404, {"X-Error-Code": "RepoNotFound"}, None, "encoder-missing",
         "The hub's 'timm/tiny.lvd1689m' cannot be used: there is none, or it is private."),
        (404, {"X-Error-Code": "EntryNotFound"}, None, "encoder-missing",
         "lacks config.json, or weights"),
        (404, {}, None, "encoder-missing", "there is none"),
        (500, {}, None, "encoder-hub-down", "an unexpected answer (HTTP 500)"),
        (503, {}, None, "encoder-hub-down", "an unexpected answer (HTTP 503)"),
        (418, {}, None, "encoder-hub-down", "an unexpected answer (HTTP 418)"),
        (407, {}, None, "encoder-proxy", "a user name and a password"),
    ],
)  # fmt: skip
def test_refusals(status, headers, token, code, message, hub):
    hub.refusal = (status, headers)
    error = fetch_failure(token)
    assert error.code == code
    assert message in error.message
    assert not repository_folder(HUB_ID).exists()
    if code == "encoder-gated":
        assert error.facts["page"] == f"{hub.url}/{HUB_ID}"
        assert f"{hub.url}/{HUB_ID}" in hint(error)


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [("90", "90 s"), ("600", "10 min"), ("soon", "a few minutes"), ("9" * 400, "a few minutes"),
     ("0", "a few minutes"), (None, "a few minutes")],
)  # fmt: skip
def test_too_many_requests(retry_after, wait, hub):
    hub.refusal = (429, {} if retry_after is None else {"Retry-After": retry_after})
    error = fetch_failure()
    assert (error.code, error.facts["wait"]) == ("encoder-too-many", wait)


def test_a_refusal_reaches_the_process_that_asked(hub):
    hub.refusal = (429, {"Retry-After": "90"})
    error = failure()
    assert error.code == "encoder-too-many"
    assert hint(error) == "Wait 90 s, then try again."


@pytest.mark.parametrize(
    ("hub_id", "reason"),
    [
        ("owner/name", "there is none, or it is private"),
        ("owner/na--me", "this is not a valid id"),
    ],
)
def test_an_id_that_is_not_there(hub_id, reason, hub):
    error = fetch_failure(hub_id=hub_id)
    assert (error.code, error.message) == (
        "encoder-missing",
        f"The hub's '{hub_id}' cannot be used: {reason}.",
    )


@pytest.mark.parametrize("page", [b"<html>Welcome to the guest network</html>", b"[]", b"{}"])
def test_a_login_page_is_not_taken_for_the_hub(page, hub):
    hub.page = page
    error = fetch_failure()
    assert error.code == "encoder-not-a-hub"
    assert "the login page of a network" in error.message


@pytest.mark.parametrize(
    "address", ["hub.local", "127.0.0.1:8080", "http://127.0.0.1:port", "file:///etc", "http://["]
)
def test_an_address_of_the_hub_that_is_none(address, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", address)
    error = failure()
    assert error.code == "encoder-not-a-hub"


# The way to the hub


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_nobody_there(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    error = fetch_failure()
    assert error.code == "encoder-offline"
    assert error.message.endswith(" cannot be reached (no connection).")


def test_a_name_that_nobody_knows(hub, monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = fetch_failure()
    assert error.code == "encoder-offline"
    assert "its name is not known to this network" in error.message


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_by_setting(variable, hub, monkeypatch):
    monkeypatch.setenv(variable, "1")
    error = failure()
    assert error.code == "encoder-offline"
    assert variable in error.message
    assert hub.requests == []


def test_silence_ends_a_download(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    hub.stall_s = 3600.0
    error = failure()
    assert error.code == "encoder-slow"
    assert error.message == f"'127.0.0.1:{hub.port}' sent nothing for 1 s."
    assert blobs() == {git_hash(hub.files["config.json"])}


@pytest.mark.parametrize("value", ["", "none", "-3", "nan", "inf"])
def test_strange_timeouts_are_the_usual_one(value, hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", value)
    assert connect(HUB_ID).timeout_s == encoder_hub.DEFAULT_TIMEOUT_S


def test_a_connection_that_breaks_off_for_good(hub, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.cuts = [0] * 20
    assert fetch_failure().code == "encoder-cut"


def test_no_encryption_where_it_was_expected(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("http:", "https:"))
    error = fetch_failure()
    assert error.code == "encoder-tls"
    assert error.message.startswith("The encrypted connection to '127.0.0.1:")


def test_a_certificate_that_is_not_trusted():
    untrusted = ssl.SSLCertVerificationError(1, "certificate verify failed")
    untrusted.verify_message = "self-signed certificate in certificate chain"
    wrapped = OSError("wrapped")
    wrapped.__cause__ = untrusted
    error = translate(wrapped, CONNECTION)
    assert error.code == "encoder-tls"
    assert "'hub.example'" in error.message
    assert "self-signed certificate in certificate chain" in error.message


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("content", [b"\x30\x82", None])
def test_certificates_that_are_none(content, variable, hub, monkeypatch, tmp_path):
    if content is not None:
        (tmp_path / "site.cer").write_bytes(content)
    monkeypatch.setenv(variable, str(tmp_path / "site.cer"))
    error = failure()
    assert error.code == "encoder-tls"
    assert variable in error.message
    assert str(tmp_path) not in str(error)
    assert hub.requests == []


@pytest.mark.parametrize("proxy", ["http://user:se/cret@proxy:80", "http://proxy:port", "http://["])
def test_a_proxy_that_is_no_address(proxy, hub, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda *_: False)
    error = failure()
    assert error.code == "encoder-proxy"
    assert "se/" not in str(error)


def through_proxy(monkeypatch, port, scheme="http"):
    monkeypatch.setenv(f"{scheme}_proxy", f"http://anna:pass@127.0.0.1:{port}")
    monkeypatch.setenv("HF_ENDPOINT", f"{scheme}://hub.example")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there(scheme, hub, monkeypatch):
    port = free_port()
    through_proxy(monkeypatch, port, scheme)
    error = fetch_failure()
    assert error.code == "encoder-proxy"
    assert error.message == (
        f"The proxy 127.0.0.1:{port} on the way to 'hub.example' cannot be reached."
    )
    assert "pass@127" not in str(error)


@pytest.mark.parametrize("status", [407, 403])
def test_a_proxy_that_refuses(status, hub, monkeypatch):
    through_proxy(monkeypatch, hub.port, "https")
    hub.refusal = (status, {})
    error = fetch_failure()
    assert error.code == "encoder-proxy"
    assert f"(HTTP {status})" in error.message
    assert hub.requests[0][0] == "CONNECT"


def test_through_a_proxy(hub, monkeypatch, files):
    """The loopback hub answers whatever address it is asked for, as a proxy does."""
    through_proxy(monkeypatch, hub.port)
    monkeypatch.setenv("no_proxy", "localhost")
    assert contents(get()) == files
    assert hub.requests[0][1].startswith("http://hub.example/api/models/timm/")


# The login


def authorizations(hub):
    """The logins that were sent, to the hub and to the server it redirects to."""
    sent = [(path, headers.get("authorization")) for _, path, headers in hub.requests]
    hubs = {login for path, login in sent if not path.startswith("/cdn/")}
    return hubs, {login for path, login in sent if path.startswith("/cdn/")}


def test_a_token_logs_in_to_the_hub_and_nowhere_else(hub):
    hub.token = TOKEN
    assert fetch_failure().code == "encoder-gated"
    hub.requests.clear()
    get(token=f" {TOKEN}\n")
    assert authorizations(hub) == ({f"Bearer {TOKEN}"}, {None})


def test_the_hubs_own_login(hub, monkeypatch, tmp_path):
    hub.token = TOKEN
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    monkeypatch.setenv("HF_TOKEN_PATH", str(file))
    get()
    shutil.rmtree(repository_folder(HUB_ID))
    monkeypatch.delenv("HF_TOKEN_PATH")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    get()
    shutil.rmtree(repository_folder(HUB_ID))
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    hub.requests.clear()
    assert failure().code == "encoder-gated"
    assert authorizations(hub) == ({None}, set())


def test_the_hubs_own_login_needs_encryption(hub, monkeypatch, files):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    through_proxy(monkeypatch, hub.port)
    monkeypatch.setenv("no_proxy", "localhost")
    assert contents(get()) == files
    assert authorizations(hub) == ({None}, {None})


@pytest.mark.parametrize("token", ["", "two words", "hf_SeCrEt\r\nX-Header: 1", "hf_ü"])
def test_what_is_no_token_is_not_sent_and_not_repeated(token, hub):
    error = failure(token=token)
    assert error.code == "encoder-token"
    assert not token or token not in str(error)
    assert "SeCrEt" not in str(error)
    assert hub.requests == []


def test_no_token_without_encryption(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    error = failure(token=TOKEN)
    assert error.code == "encoder-token"
    assert "its address has no encryption" in error.message
    assert TOKEN not in str(error)


def test_errors_never_repeat_the_token(hub):
    hub.refusal = (401, {"X-Error-Message": f"bad token {TOKEN}"})
    error = failure(token=TOKEN)
    assert error.code == "encoder-token"
    while error is not None:
        assert TOKEN not in repr(error)
        error = error.__cause__ or error.__context__


# The machine


def test_too_little_room(hub, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1_000_000))
    error = fetch_failure()
    assert error.code == "encoder-disk-full"
    assert hub.sent == 0


def test_a_cache_that_cannot_be_written(hub, monkeypatch, tmp_path):
    blocked = tmp_path / "secret place"
    blocked.write_text("a file, not a folder")
    monkeypatch.setenv("HF_HUB_CACHE", str(blocked))
    error = failure()
    assert error.code == "encoder-cache"
    assert "secret" not in str(error)


def test_a_disk_that_fills_up():
    full = OSError(errno.ENOSPC, "No space left on device", "/home/someone/secret")
    error = translate(full, CONNECTION)
    assert error.code == "encoder-disk-full"
    assert "(No space left on device)" in error.message
    assert "secret" not in str(error)


@pytest.mark.parametrize("package", ["truststore", "huggingface_hub"])
def test_a_package_that_is_missing(package, hub, monkeypatch, tmp_path):
    raising = f"raise ModuleNotFoundError('No module named {package}', name='{package}')"
    (tmp_path / f"{package}.py").write_text(raising)
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    error = failure()
    assert error.code == "package-missing"
    assert f"'{package}'" in error.message
    assert hub.requests == []


def test_what_nobody_foresaw_is_told_by_its_kind_alone():
    error = translate(RuntimeError(f"something with {TOKEN}"), CONNECTION)
    assert (error.code, "(RuntimeError)" in error.message) == ("encoder-hub-down", True)
    assert TOKEN not in str(error)
    first, second = RuntimeError(), ValueError()
    first.__context__, second.__context__ = second, first
    assert translate(first, CONNECTION).code == "encoder-not-a-hub"
