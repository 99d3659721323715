"""Fetching weights: from a hub on loopback, with every fault that a network has."""

import errno
import shutil
import socket
import ssl
import time
import urllib.request
from collections import namedtuple
from pathlib import Path

import huggingface_hub
import pytest
import torch
from Engine import dinov3_examples as examples
from Engine.loopback_hub import COMMIT, HUB_ID, LoopbackHub, git_hash, only_hub, serve
from SpatialARAnomalyLib.engine import hub_client, hub_download
from SpatialARAnomalyLib.engine.encoder import load_encoder
from SpatialARAnomalyLib.engine.errors import Cancelled, EncoderError
from SpatialARAnomalyLib.engine.hub_cache import (
    cache_folder,
    cached_bytes,
    cached_folder,
    partial_bytes,
    repository_folder,
)
from SpatialARAnomalyLib.engine.hub_download import download
from SpatialARAnomalyLib.engine.hub_lock import alone
from SpatialARAnomalyLib.engine.hub_refusals import Asked, refusal
from SpatialARAnomalyLib.engine.progress import SilentReporter

TOKEN = "hf_SeCrEt0123456789"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return examples.save_transformers(examples.vit(), tmp_path_factory.mktemp("saved") / "vit")


@pytest.fixture(scope="module")
def files(saved):
    return {name: (saved / name).read_bytes() for name in ("config.json", "model.safetensors")}


@pytest.fixture
def hub(saved, monkeypatch):
    monkeypatch.setattr(hub_download, "PAUSE_S", 0.0)
    with only_hub(saved, monkeypatch) as hub:
        yield hub


class Progress(SilentReporter):
    """Notes how far it went, and stops where it was told to."""

    def __init__(self, stop_at=None):
        self.told = []
        self._stop_at = stop_at

    def progress(self, done, total, unit):
        assert unit == "byte"
        self.told.append((done, total))

    def check_cancelled(self):
        if self._stop_at is not None and self.told and self.told[-1][0] >= self._stop_at:
            raise Cancelled


def get(token=None, report=None, hub_id=HUB_ID):
    return download(hub_id, report or SilentReporter(), token)


def failure(**options):
    with pytest.raises(EncoderError) as caught:
        get(**options)
    return caught.value


def kept():
    """Files of the cache that have arrived in part or whole; locks are none."""
    repository = repository_folder(HUB_ID)
    return [one for one in repository.rglob("*") if one.is_file() and one.stat().st_size]


def test_a_download(hub, files, saved):
    report = Progress()
    folder = get(report=report)
    assert folder == cached_folder(HUB_ID)
    assert folder.name == COMMIT
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == files
    total = sum(map(len, files.values()))
    done = [done for done, _ in report.told]
    assert done == sorted(done)
    assert report.told[-1] == (total, total)
    assert (cached_bytes(HUB_ID), partial_bytes(HUB_ID)) == (total + len(COMMIT), 0)
    encoder = load_encoder(HUB_ID)
    assert (encoder.card.name, encoder.card.revision) == (HUB_ID, COMMIT)
    assert encoder.card.weights_sha256 == load_encoder(str(saved)).card.weights_sha256


def test_what_is_here_is_used_without_a_request(hub, saved):
    get()
    hub.requests.clear()
    encoder = load_encoder(HUB_ID, allow_download=True)
    assert torch.equal(
        encoder.embed(examples.images()), load_encoder(str(saved)).embed(examples.images())
    )
    assert hub.requests == []


def test_the_hubs_own_programs_find_it(hub, files):
    folder = get()
    for name in files:
        found = huggingface_hub.try_to_load_from_cache(HUB_ID, name, cache_dir=cache_folder())
        assert found == str(folder / name)
    (repository,) = huggingface_hub.scan_cache_dir(cache_folder()).repos
    assert repository.repo_id == HUB_ID
    assert repository.size_on_disk == sum(map(len, files.values()))


def test_shards(hub, saved, tmp_path):
    sharded = examples.shard(saved, tmp_path / "sharded")
    hub.files = {one.name: one.read_bytes() for one in sharded.iterdir()}
    folder = get()
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == hub.files
    hashes = {load_encoder(source).card.weights_sha256 for source in (HUB_ID, str(saved))}
    assert len(hashes) == 1


def test_all_files_are_of_one_commit(hub):
    get()
    asked = [path.split("/resolve/")[1] for _, path, _ in hub.requests if "/resolve/" in path]
    assert asked[0] == "main/config.json"
    assert [path for path in asked if "model.safetensors" in path] == [
        f"{COMMIT}/model.safetensors"
    ] * 2


def test_the_hub_may_lead_to_another_of_its_addresses(hub, files):
    hub.moved = True
    hub.token = TOKEN
    folder = get(token=TOKEN)
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == files


def test_the_hub_may_not_tell_the_length_of_small_files(hub, files):
    hub.lengths = False
    assert (get() / "config.json").read_bytes() == files["config.json"]


def test_loading_may_fetch(hub):
    assert load_encoder(HUB_ID, allow_download=True).card.revision == COMMIT


# What is interrupted goes on


def test_a_broken_connection_is_taken_up_again(hub, files):
    size = len(files["model.safetensors"])
    hub.cuts = [size // 2, size // 4]
    get()
    assert hub.ranges_asked == [f"bytes={size // 2}-", f"bytes={size // 2 + size // 4}-"]
    assert hub.sent == size  # nothing twice


def test_the_next_download_goes_on_where_the_last_stopped(hub, files, monkeypatch):
    size = len(files["model.safetensors"])
    monkeypatch.setattr(hub_download, "TRIES", 2)
    hub.cuts = [size // 2, 0]
    error = failure()
    assert error.code == "encoder-cut"
    assert error.message == "The connection to '127.0.0.1' broke off."
    assert error.hint == "Try again: the download goes on where it stopped."
    assert cached_folder(HUB_ID) is None
    assert partial_bytes(HUB_ID) == size // 2
    hub.requests.clear()
    report = Progress()
    get(report=report)
    assert hub.ranges_asked == [f"bytes={size // 2}-"]
    assert hub.sent == size
    weights = [done for done, _ in report.told if done > len(files["config.json"])]
    assert weights[0] >= size // 2  # progress does not begin at zero
    assert partial_bytes(HUB_ID) == 0
    assert (cached_folder(HUB_ID) / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_cancel_keeps_what_has_arrived(hub, files):
    size = len(files["model.safetensors"])
    with pytest.raises(Cancelled):
        get(report=Progress(stop_at=size // 2))
    part = partial_bytes(HUB_ID)
    assert size // 3 < part < size
    assert cached_folder(HUB_ID) is None
    get()
    assert hub.ranges_asked == [f"bytes={part}-"]
    assert cached_folder(HUB_ID)


def test_a_server_that_knows_no_parts_is_begun_with_anew(hub, files):
    hub.ranges = False
    hub.cuts = [1000]
    get()
    assert (cached_folder(HUB_ID) / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_a_part_that_is_too_long_is_begun_anew(hub, files):
    hub.cuts = [0] * hub_download.TRIES
    assert failure().code == "encoder-cut"
    (part,) = repository_folder(HUB_ID).glob("blobs/*.incomplete")
    part.write_bytes(bytes(len(files["model.safetensors"]) + 1))
    get()
    assert cached_folder(HUB_ID)


# What arrives is verified


def test_wrong_bytes_are_refused_and_removed(hub):
    hub.altered = True
    error = failure()
    assert error.code == "encoder-wrong-bytes"
    assert "What arrived as model.safetensors is not what the hub announced" in error.message
    assert "It was removed." in error.message
    assert "a proxy, a mirror" in error.hint
    assert [one.name for one in kept()] == [git_hash(hub.files["config.json"])]
    assert cached_folder(HUB_ID) is None
    hub.altered = False
    get()


def test_a_part_that_was_damaged_on_disk_is_found(hub, files):
    hub.cuts = [5000] + [0] * hub_download.TRIES
    assert failure().code == "encoder-cut"
    (part,) = repository_folder(HUB_ID).glob("blobs/*.incomplete")
    part.write_bytes(bytes(5000))
    assert failure().code == "encoder-wrong-bytes"
    assert partial_bytes(HUB_ID) == 0
    get()
    assert (cached_folder(HUB_ID) / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_a_damaged_configuration_is_refused(hub, monkeypatch):
    describe = hub_client.HubClient.describe

    def announced_otherwise(self, name, revision="main"):
        file = describe(self, name, revision)
        return (
            file
            if name != "config.json"
            else hub_client.RemoteFile(
                name=name, url=file.url, commit=file.commit, etag="0" * 40, size=file.size
            )
        )

    monkeypatch.setattr(hub_client.HubClient, "describe", announced_otherwise)
    assert failure().code == "encoder-wrong-bytes"
    assert kept() == []


def test_what_cannot_be_verified_is_not_fetched(hub):
    hub.hashes = False
    error = failure()
    assert error.code == "encoder-unverified"
    assert "does not tell the hash of model.safetensors" in error.message
    assert kept() == []


def test_a_blob_of_another_program_is_verified(hub, files):
    get()
    (weights,) = (one for one in kept() if one.stat().st_size > 10_000 and not one.is_symlink())
    weights.write_bytes(bytes(weights.stat().st_size))
    (repository_folder(HUB_ID) / "refs" / "main").unlink()
    get()
    assert (cached_folder(HUB_ID) / "model.safetensors").read_bytes() == files["model.safetensors"]


# What the hub answers


@pytest.mark.parametrize(
    ("status", "headers", "token", "code", "said", "hint"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, None, "encoder-gated", "nobody is logged in",
         "hf auth login"),
        (401, {}, None, "encoder-gated", "nobody is logged in", "/timm/tiny.lvd1689m"),
        (401, {"X-Error-Code": "RepoNotFound"}, None, "encoder-missing", "or it is private",
         "timm/vit_small"),
        (401, {"X-Error-Code": "GatedRepo"}, TOKEN, "encoder-gated", "none of them, or is wrong",
         "Access Tokens"),
        (401, {}, TOKEN, "encoder-token", "does not accept the token", "Access Tokens"),
        (403, {"X-Error-Code": "GatedRepo"}, TOKEN, "encoder-gated", "yours has not been",
         "Ask for access on http://127.0.0.1"),
        (403, {}, None, "encoder-gated", "a web filter of your network", "in a browser"),
        (404, {"X-Error-Code": "RepoNotFound"}, None, "encoder-missing",
         "The hub has no 'timm/tiny.lvd1689m', or it is private.", "timm/vit_small"),
        (404, {"X-Error-Code": "EntryNotFound"}, None, "encoder-missing",
         "lacks config.json, model.safetensors", "safetensors"),
        (429, {"Retry-After": "90"}, None, "encoder-too-many", "too many from your network",
         "Wait 90 s, then try again."),
        (429, {"Retry-After": "600"}, None, "encoder-too-many", "too many", "Wait 10 min"),
        (429, {"Retry-After": "soon"}, None, "encoder-too-many", "too many", "a few minutes"),
        (429, {}, None, "encoder-too-many", "too many", "Wait a few minutes"),
        (500, {}, None, "encoder-hub-down", "a fault of its own (HTTP 500)", "is kept"),
        (503, {}, None, "encoder-hub-down", "a fault of its own (HTTP 503)", "is kept"),
        (418, {}, None, "encoder-hub-down", "not expected (HTTP 418)", "in a browser"),
        (407, {}, None, "encoder-proxy", "a user name and a password", "HTTPS_PROXY"),
    ],
)  # fmt: skip
def test_refusals(status, headers, token, code, said, hint, hub):
    hub.refusal = (status, headers)
    error = failure(token=token)
    assert error.code == code
    assert said in error.message
    assert hint in error.hint
    assert not repository_folder(HUB_ID).exists()
    if code == "encoder-gated":
        assert "a local folder or .safetensors file" in error.hint
        assert "timm/vit_small_patch16_dinov3.lvd1689m" in error.hint


def test_waiting_until_a_date():
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 61))
    with serve({}) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        hub.refusal = (429, {"Retry-After": date})
        assert failure().hint.startswith(("Wait 59 s", "Wait 60 s", "Wait 61 s"))


def test_an_id_that_is_not_there(hub):
    error = failure(hub_id="owner/name")
    assert (error.code, error.message) == (
        "encoder-missing",
        "The hub has no 'owner/name', or it is private.",
    )


def test_a_refusal_in_the_middle_keeps_what_has_arrived(hub, files):
    size = len(files["model.safetensors"])

    class ThenTooMany(Progress):
        def progress(self, done, total, unit):
            super().progress(done, total, unit)
            if done > size // 3:
                hub.refusal = (429, {"Retry-After": "5"})

    hub.cuts = [size // 2]
    assert failure(report=ThenTooMany()).code == "encoder-too-many"
    assert partial_bytes(HUB_ID) == size // 2


def test_a_login_page_is_not_taken_for_the_hub(hub):
    hub.page = b"<html>Welcome to the guest network</html>"
    error = failure()
    assert error.code == "encoder-not-a-hub"
    assert error.message == (
        "What answered at '127.0.0.1' is not a Hugging Face hub (HF_ENDPOINT names it): perhaps "
        "the login or warning page of a network."
    )


def test_a_redirect_elsewhere_is_not_followed(hub):
    hub.refusal = (302, {"Location": f"http://localhost:{hub.port}/login"})
    assert failure().code == "encoder-not-a-hub"
    assert len(hub.requests) == 1


@pytest.mark.parametrize("target", ["http://[bad", "http://127.0.0.1:port/x"])
def test_a_redirect_to_no_address(target, hub):
    hub.refusal = (302, {"Location": target})
    assert failure().code == "encoder-not-a-hub"


@pytest.mark.parametrize(
    "address", ["hub.local", "127.0.0.1:8080", "http://127.0.0.1:port", "file:///etc", "http://["]
)
def test_an_address_of_the_hub_that_is_none(address, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", address)
    error = failure()
    assert error.code == "encoder-not-a-hub"
    assert "HF_ENDPOINT must be an address" in error.message


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_that_are_none(variable, hub, monkeypatch, tmp_path):
    (tmp_path / "site.cer").write_bytes(b"\x30\x82")
    monkeypatch.setenv(variable, str(tmp_path / "site.cer"))
    error = failure()
    assert error.code == "encoder-tls"
    assert variable in error.message
    assert str(tmp_path) not in str(error)


@pytest.mark.parametrize("proxy", ["http://user:se/cret@proxy:80", "http://proxy:port", "http://["])
def test_a_proxy_that_is_no_address(proxy, hub, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda *_: False)
    error = failure()
    assert error.code == "encoder-proxy"
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert "se/" not in str(error)


@pytest.mark.parametrize("wait", ["9" * 400, "99999999", "Mon, 99 Foo"])
def test_no_strange_time_to_wait(wait, hub):
    hub.refusal = (429, {"Retry-After": wait})
    assert failure().hint.startswith("Wait a few minutes")


def test_silence(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")
    hub.stall_s = 1.0
    error = failure()
    assert error.code == "encoder-slow"
    assert error.message == "'127.0.0.1' sent nothing for 0.2 s."
    assert "HF_HUB_DOWNLOAD_TIMEOUT" in error.hint
    assert partial_bytes(HUB_ID) > 0


def test_a_slow_line_is_no_silence(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "30")
    hub.stall_s = 0.3
    get()


@pytest.mark.parametrize("value", ["", "none", "-3", "nan", "inf"])
def test_strange_timeouts_are_the_usual_one(value, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", value)
    assert hub_client.timeout_s() == hub_client.TIMEOUT_S


# The way to the hub


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_nobody_there(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    error = failure()
    assert error.code == "encoder-offline"
    assert error.message == (
        "'127.0.0.1' cannot be reached (ConnectionRefusedError). This machine may be offline."
    )
    assert "copy the weights from another machine" in error.hint


def test_a_name_that_nobody_knows(hub, monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = failure()
    assert error.code == "encoder-offline"
    assert "its name is not known to this network" in error.message


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_by_setting(variable, hub, monkeypatch):
    monkeypatch.setenv(variable, "1")
    error = failure()
    assert error.code == "encoder-offline"
    assert (
        error.message == f"Nothing is downloaded: {variable} forbids this program to use the hub."
    )
    assert hub.requests == []


def test_no_encryption_where_it_was_expected(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("http:", "https:"))
    error = failure()
    assert error.code == "encoder-tls"
    assert error.message.startswith("The encrypted connection to '127.0.0.1' is not trusted")
    for way_out in ("hospitals", "SSL_CERT_FILE", "date"):
        assert way_out in error.hint


def test_a_certificate_that_is_not_trusted():
    untrusted = ssl.SSLCertVerificationError(1, "certificate verify failed")
    untrusted.verify_message = "self-signed certificate in certificate chain"
    asked = Asked(
        hub_id=HUB_ID, page="", host="hub.example", proxy=None, timeout_s=1, with_token=False
    )
    error = refusal(urllib.error.URLError(untrusted), asked)
    assert error.code == "encoder-tls"
    assert "'hub.example'" in error.message
    assert "self-signed certificate in certificate chain" in error.message


def through_proxy(monkeypatch, port, scheme="http"):
    monkeypatch.setenv(f"{scheme}_proxy", f"http://anna:pass@127.0.0.1:{port}")
    monkeypatch.setenv("HF_ENDPOINT", f"{scheme}://hub.example")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there(scheme, hub, monkeypatch):
    port = free_port()
    through_proxy(monkeypatch, port, scheme)
    error = failure()
    assert error.code == "encoder-proxy"
    assert error.message == (
        f"The proxy 127.0.0.1:{port} on the way to 'hub.example' cannot be reached."
    )
    assert "pass@127" not in str(error)


@pytest.mark.parametrize(("status", "said"), [(407, "(HTTP 407)"), (403, "(HTTP 403)")])
def test_a_proxy_that_refuses(status, said, hub, monkeypatch):
    through_proxy(monkeypatch, hub.port, "https")
    hub.refusal = (status, {})
    error = failure()
    assert error.code == "encoder-proxy"
    assert said in error.message
    assert hub.requests[0][0] == "CONNECT"


def test_through_a_proxy(hub, monkeypatch, files):
    """The loopback hub answers whatever address it is asked for, as a proxy does."""
    through_proxy(monkeypatch, hub.port)
    monkeypatch.setenv("no_proxy", "localhost")
    get()
    assert hub.requests[0][1].startswith("http://hub.example/timm/")
    assert (cached_folder(HUB_ID) / "config.json").read_bytes() == files["config.json"]


def test_never_on_to_an_address_without_encryption():
    request = urllib.request.Request("https://hub.example/a")
    with pytest.raises(ssl.SSLError, match="without encryption"):
        hub_client._SafeRedirect().redirect_request(
            request, None, 302, "", {}, "http://cdn.example/a"
        )


# The login


def test_a_token_logs_in_to_the_hub_and_nowhere_else(hub):
    hub.token = TOKEN
    assert failure().code == "encoder-gated"
    hub.requests.clear()
    get(token=f" {TOKEN}\n")
    told = {path: headers.get("Authorization") for _, path, headers in hub.requests}
    large = {path for path in told if path.startswith("/cdn/")}
    assert large
    assert {told.pop(path) for path in large} == {None}
    assert set(told.values()) == {f"Bearer {TOKEN}"}


def test_the_login_stays_with_the_server_it_is_for():
    request = urllib.request.Request("https://hub.example/a")
    request.add_unredirected_header("Authorization", "Bearer x")
    follow = hub_client._SafeRedirect().redirect_request
    here = follow(request, None, 307, "", {}, "https://hub.example/b")
    elsewhere = follow(request, None, 307, "", {}, "https://cdn.example/b")
    assert here.get_header("Authorization") == "Bearer x"
    assert elsewhere.get_header("Authorization") is None


def test_the_hubs_own_login(hub, monkeypatch, tmp_path):
    hub.token = TOKEN
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    monkeypatch.setenv("HF_TOKEN_PATH", str(file))
    get()
    shutil.rmtree(cache_folder())
    monkeypatch.delenv("HF_TOKEN_PATH")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    get()
    shutil.rmtree(cache_folder())
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert failure().code == "encoder-gated"


@pytest.mark.parametrize("token", ["", "two words", "hf_SeCrEt\r\nX-Header: 1", "hf_ü", "x" * 1001])
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
    while error is not None:
        assert TOKEN not in repr(error)
        assert TOKEN not in str(error)
        error = error.__cause__


# The disk


def test_too_little_room(hub, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 5_000_000))
    error = failure()
    assert error.code == "encoder-disk-full"
    assert "there are 5 MB." in error.message
    assert kept() == []
    assert hub.sent == 0


def test_a_cache_that_cannot_be_written(hub, monkeypatch, tmp_path):
    blocked = tmp_path / "secret place"
    blocked.write_text("a file, not a folder")
    monkeypatch.setenv("HF_HUB_CACHE", str(blocked))
    error = failure()
    assert error.code == "encoder-cache"
    assert "set HF_HOME to a folder that can be written" in error.hint
    assert "secret" not in str(error)


def test_a_disk_that_fills_up(hub, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", "/home/someone/secret")

    monkeypatch.setattr(hub_download, "sync", full)
    error = failure()
    assert error.code == "encoder-cache"
    assert "(No space left on device)" in error.message
    assert "secret" not in str(error)


def test_one_download_at_a_time(hub):
    with alone(HUB_ID):
        error = failure()
    assert error.code == "encoder-busy"
    assert hub.sent == 0
    get()


def test_a_machine_without_links(hub, files, monkeypatch):
    """Windows allows links only to some: then the file itself takes the name."""

    def refuse(self, target, target_is_directory=False):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = get()
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == files
    assert huggingface_hub.try_to_load_from_cache(
        HUB_ID, "model.safetensors", cache_dir=cache_folder()
    )


def test_the_hub_is_where_the_variable_says(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert hub_client.endpoint() == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert hub_client.page_of("a/b") == "https://mirror.example/a/b"
    assert LoopbackHub(port=5).url == "http://127.0.0.1:5"
