"""Asks the Hugging Face hub, or the server that `HF_ENDPOINT` names, over plain HTTP.

The standard library is enough, so that this runs wherever Python does; proxies
and certificates are those of the system. huggingface_hub 2.4 neither goes on
with an interrupted download nor checks what arrived against its hash.
"""

import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from .errors import EncoderError
from .hub_cache import hub_home
from .hub_refusals import Asked, refusal

ENDPOINT = "https://huggingface.co"
TIMEOUT_S = 30.0
"""Of silence, unless `HF_HUB_DOWNLOAD_TIMEOUT` says another."""

MOST_REDIRECTS = 5
MOST_COUNTED = 1 << 24

FAILURES = (OSError, http.client.HTTPException, ValueError)
"""What a request or the reading of its answer may raise: `urllib`'s errors are `OSError`s, and a
`ValueError` comes of an address that is none."""


class NoSuchFileError(Exception):
    """The hub has the weights, but not under this file name."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file as the hub describes it."""

    name: str
    url: str
    commit: str
    etag: str
    """SHA-256 of the content (large files), or the SHA-1 that git gives it."""
    size: int


def endpoint() -> str:
    """The address of the hub in use, without the slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def page_of(hub_id: str) -> str:
    """The address where the hub shows weights, and where access is asked for."""
    return f"{endpoint()}/{hub_id}"


def offline_setting() -> str | None:
    """The variable that forbids the use of the hub, if one is set."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").strip().upper() in ("1", "ON", "YES", "TRUE"):
            return name
    return None


def timeout_s() -> float:
    """For how long the hub may be silent."""
    try:
        seconds = float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", ""))
    except ValueError:
        return TIMEOUT_S
    return seconds if 0 < seconds < 86400 else TIMEOUT_S


class HubClient:
    """Asks for files of one hub id; what goes wrong is an `EncoderError` that says so."""

    def __init__(self, hub_id: str, token: str | None = None) -> None:
        """Raises `EncoderError` for a `token`, an address or certificates that cannot be ones."""
        self.hub_id = hub_id
        self._root = endpoint()
        if not _is_web_address(self._root):
            raise EncoderError(
                "encoder-not-a-hub",
                "HF_ENDPOINT must be an address such as https://hub.example.org; it is not.",
                "Correct it, or unset it to use the hub itself.",
            )
        self._authorization = _authorization(self._root, token)
        proxies = urllib.request.getproxies()
        self.asked = Asked(
            hub_id=hub_id,
            page=page_of(hub_id),
            host=urlsplit(self._root).hostname or self._root,
            proxy=_proxy_host(self._root, proxies),
            timeout_s=timeout_s(),
            with_token=self._authorization is not None,
        )
        handlers = (
            urllib.request.ProxyHandler(proxies),
            urllib.request.HTTPSHandler(context=_tls_context()),
        )
        self._asking = urllib.request.build_opener(*handlers, _NoRedirect())
        self._fetching = urllib.request.build_opener(*handlers, _SafeRedirect())

    def describe(self, name: str, revision: str = "main") -> RemoteFile:
        """What the hub says of a file; raises `NoSuchFileError` or `EncoderError`."""
        url = f"{self._root}/{self.hub_id}/resolve/{quote(revision, safe='')}/{quote(name)}"
        for _ in range(MOST_REDIRECTS):
            headers = self._head(url)
            target = headers.get("Location")
            try:
                if target is None or urlsplit(target).netloc:
                    return self._described(name, url, headers)
                # The hub leads to another of its own addresses, as for small or renamed files.
                url = urljoin(url, target)
            except ValueError as error:
                raise self.refused(error) from error
        raise self._not_a_hub()

    def fetch(self, file: RemoteFile, start: int) -> Any:
        """The answer with the bytes of a file from `start` on; raises `EncoderError`."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        request = self._request(file.url, "GET", headers)
        try:
            return self._fetching.open(request, timeout=self.asked.timeout_s)
        except FAILURES as error:
            raise self.refused(error) from error

    def refused(self, error: BaseException) -> EncoderError:
        """The error that says what a failed request means."""
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        return refusal(error, self.asked)

    def _head(self, url: str) -> Message:
        try:
            with self._asking.open(
                self._request(url, "HEAD", {}), timeout=self.asked.timeout_s
            ) as answer:
                headers: Message = answer.headers
                return headers
        except urllib.error.HTTPError as error:
            if 300 <= error.code < 400:
                error.close()
                return error.headers
            if error.code == 404 and error.headers.get("X-Error-Code") == "EntryNotFound":
                error.close()
                raise NoSuchFileError from error
            raise self.refused(error) from error
        except FAILURES as error:
            raise self.refused(error) from error

    def _described(self, name: str, url: str, headers: Message) -> RemoteFile:
        etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/")
        etag = etag.strip('"')
        size = headers.get("X-Linked-Size") or ""
        commit = headers.get("X-Repo-Commit") or ""
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise self._not_a_hub()
        if not size and not headers.get("Location"):  # the length of a redirect is its own
            size = headers.get("Content-Length") or str(self._counted(url))
        if not size.isdecimal():
            raise self._not_a_hub()
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
            raise EncoderError(
                "encoder-unverified",
                f"'{self.asked.host}' does not tell the hash of {name}: what arrives could not "
                "be verified, so nothing is downloaded.",
                "Use the hub itself (unset HF_ENDPOINT), or get the files in another way and "
                "give the local folder.",
            )
        return RemoteFile(name=name, url=url, commit=commit, etag=etag, size=int(size))

    def _counted(self, url: str) -> int:
        """Bytes of a small file, of which the hub may not tell them."""
        try:
            with self._fetching.open(
                self._request(url, "GET", {}), timeout=self.asked.timeout_s
            ) as answer:
                return len(answer.read(MOST_COUNTED))
        except FAILURES as error:
            raise self.refused(error) from error

    def _request(self, url: str, method: str, headers: dict[str, str]) -> urllib.request.Request:
        # Compressed bytes would be counted and hashed wrongly.
        headers = headers | {
            "Accept-Encoding": "identity",
            "User-Agent": "spatial-ar-anomaly",
        }
        request = urllib.request.Request(url, headers=headers, method=method)
        if self._authorization is not None:
            # Not told to the server that the hub leads on to: its address is a permission itself.
            request.add_unredirected_header("Authorization", self._authorization)
        return request

    def _not_a_hub(self) -> EncoderError:
        return EncoderError(
            "encoder-not-a-hub",
            f"What answered at '{self.asked.host}' is not a Hugging Face hub"
            + (" (HF_ENDPOINT names it)" if os.environ.get("HF_ENDPOINT") else "")
            + ": perhaps the login or warning page of a network.",
            "Open the address in a browser, log in to the network or have your IT allow it, "
            "then try again.",
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is the answer: its headers describe the file."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> None:
        # Not one step on to `redirect_request`: the address, which may be none, is not looked at.
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _SafeRedirect(urllib.request.HTTPRedirectHandler):
    """Never to a connection without encryption from one with it, nor with the login elsewhere."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url)[:2], urlsplit(newurl)[:2]
        if old[0] == "https" and new[0] != "https":
            raise ssl.SSLError("led on to an address without encryption")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and new == old and req.has_header("Authorization"):
            request.add_unredirected_header("Authorization", req.get_header("Authorization"))
        return request


def _tls_context() -> ssl.SSLContext:
    """Trusts whom the system trusts, as a hospital's inspecting proxy needs it."""
    try:
        import truststore

        context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    except ImportError:
        context = ssl.create_default_context()
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        file = os.environ.get(variable, "")
        if os.path.isfile(file):
            try:
                context.load_verify_locations(file)
            except OSError as error:
                raise EncoderError(
                    "encoder-tls",
                    f"{variable} must name a .pem file of certificates; what it names cannot be "
                    "read as one.",
                    "Have your IT give the certificates as PEM (text with BEGIN CERTIFICATE), or "
                    f"unset {variable}.",
                ) from error
    return context


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _proxy_host(url: str, proxies: dict[str, str]) -> str | None:
    """The proxy that a request goes through, without what a password may be in."""
    parts = urlsplit(url)
    proxy = proxies.get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    try:
        where = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        return f"{where.hostname}:{where.port}" if where.port else str(where.hostname)
    except ValueError:
        # Not chained: its words may hold a part of a password.
        raise EncoderError(
            "encoder-proxy",
            f"The proxy that is set for {parts.scheme}:// is no address.",
            "Check HTTPS_PROXY (http://user:password@host:port; signs such as / # @ in a password "
            "as %2F %23 %40).",
        ) from None


def _authorization(root: str, token: str | None) -> str | None:
    """The header that logs in: with the token given, else with the hub's own login."""
    given = token is not None
    token = (token if token is not None else _saved_token() or "").strip()
    if not token and not given:
        return None
    # http.client would quote a token with a line break in its error.
    if not re.fullmatch(r"[\x21-\x7e]{1,1000}", token):
        if not given:
            return None
        raise EncoderError(
            "encoder-token",
            "A token is one word of letters, digits and signs (hf_…); what was given is not.",
            "Copy it again from your account's page at the hub (Settings, Access Tokens).",
        )
    parts = urlsplit(root)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not local:
        if not given:
            return None
        raise EncoderError(
            "encoder-token",
            f"The token is not sent to '{parts.hostname}': its address has no encryption.",
            "Use an address that begins with https:// in HF_ENDPOINT.",
        )
    return f"Bearer {token}"


def _saved_token() -> str | None:
    """The token of the hub's own login (`hf auth login`), or of its variables."""
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in ("1", "ON", "YES", "TRUE"):
        return None
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name):
            return token
    file = os.environ.get("HF_TOKEN_PATH") or hub_home() / "token"
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
