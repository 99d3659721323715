"""Failures of a download from the Hugging Face hub, as errors of this program.

huggingface_hub 1 raises the exceptions of httpx, version 2 those of httpx2. They are
recognized by the names of their classes, so that this module imports neither. Their text is
not repeated: it may hold a token or a signed address.
"""

import errno
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from SpatialARAnomalyLib.engine.errors import EncoderError

MAX_WAIT_S = 86400
"""Longest `Retry-After` of a server, in seconds, that is passed on to the user."""

_MESSAGES = {
    "encoder-cut": "The connection to '{host}' broke off.",
    "encoder-hub-down": "'{host}' gave an unexpected answer ({reason}).",
    "encoder-missing": "The hub's '{hub_id}' cannot be used: {reason}.",
    "encoder-not-a-hub": (
        "'{host}' is not the address of a Hugging Face hub, or the login page of a network "
        "answered in its place."
    ),
    "encoder-offline": "'{host}' cannot be reached ({reason}).",
    "encoder-proxy": "The proxy {proxy} on the way to '{host}' {reason}.",
    "encoder-slow": "'{host}' sent nothing for {timeout_s} s.",
    "encoder-tls": (
        "The encrypted connection to '{host}' is not trusted or could not be made ({reason}). "
        "Networks of hospitals often inspect connections with a certificate of their own."
    ),
    "encoder-token": "The hub does not accept the token: it is wrong or was revoked.",
}

LACKS_FILES = "it lacks config.json, or weights in .safetensors files"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The weights to download, the server, and the way to it."""

    hub_id: str
    endpoint: str
    """Address of the hub, such as `https://huggingface.co`."""
    proxy: str | None
    """`host:port` of the proxy, if there is one."""
    timeout_s: int
    """Seconds of silence after which a download fails."""

    @property
    def host(self) -> str:
        """`host:port` of the hub, or the host alone."""
        return host_of(self.endpoint)


def host_of(address: str) -> str:
    """Return `host:port` of an address, without the user name and password it may hold."""
    return address.rpartition("//")[2].rpartition("@")[2].partition("/")[0]


def hub_error(code: str, connection: Connection, reason: str = "") -> EncoderError:
    """Make the error of a code that has its message in `_MESSAGES`."""
    facts: dict[str, object] = {"host": connection.host, "hub_id": connection.hub_id}
    facts |= {"reason": reason, "timeout_s": connection.timeout_s}
    facts |= {"proxy": connection.proxy or "of this network"}
    return EncoderError(code, _MESSAGES[code].format_map(facts))


def translate(error: BaseException, connection: Connection) -> EncoderError:
    """Translate an exception of a download into an `EncoderError`."""
    if isinstance(error, ImportError):
        return EncoderError(
            "package-missing",
            f"A download needs the Python package '{error.name or 'huggingface_hub'}'; it is not "
            "installed, or cannot be loaded.",
        )
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    for cause in causes:
        if isinstance(cause, EncoderError):
            return cause
        if (response := getattr(cause, "response", None)) is not None:
            with_token = "authorization" in response.request.headers
            return _http_error(response.status_code, response.headers, with_token, connection)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            reason = getattr(cause, "verify_message", "") or cause.reason or type(cause).__name__
            return hub_error("encoder-tls", connection, reason)
        if type(cause).__name__ == "ProxyError":
            status = re.match(r"\d{3}", str(cause))
            reason = f"refuses the connection (HTTP {status[0]})" if status else "does not answer"
            return hub_error("encoder-proxy", connection, reason)
    if "OfflineModeIsEnabled" in names:
        reason = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids it"
        return hub_error("encoder-offline", connection, reason)
    if "HFValidationError" in names:
        return hub_error("encoder-missing", connection, "this is not a valid id")
    if names & {"TimeoutException", "TimeoutError"}:
        return hub_error("encoder-slow", connection)
    if names & {"JSONDecodeError", "FileMetadataError", "TypeError", "AttributeError", "KeyError"}:
        return hub_error("encoder-not-a-hub", connection)
    if names & {"UnsupportedProtocol", "InvalidURL", "ValueError"}:
        if connection.proxy is not None:
            return hub_error("encoder-proxy", connection, "has no valid address")
        return hub_error("encoder-not-a-hub", connection)
    if "TransportError" in names:
        unknown = "gaierror" in names
        if connection.proxy is not None and (unknown or "ConnectionRefusedError" in names):
            return hub_error("encoder-proxy", connection, "cannot be reached")
        if names & {"ReadError", "WriteError", "ProtocolError", "SSLError", "ConnectionResetError"}:
            return hub_error("encoder-cut", connection)
        reason = "its name is not known to this network" if unknown else "no connection"
        return hub_error("encoder-offline", connection, reason)
    if isinstance(error, OSError):
        # huggingface_hub raises one without a number for a file that is too short.
        return disk_error(error) if error.errno else hub_error("encoder-cut", connection)
    return hub_error("encoder-hub-down", connection, type(error).__name__)


def _http_error(
    status: int, headers: Mapping[str, str], with_token: bool, connection: Connection
) -> EncoderError:
    """Make the error of a server's answer; the hub sends its own code in `X-Error-Code`."""
    code = headers.get("X-Error-Code")
    if status == 407:
        return hub_error("encoder-proxy", connection, "asks for a user name and a password")
    if code == "EntryNotFound":
        return hub_error("encoder-missing", connection, LACKS_FILES)
    if status == 404 or code == "RepoNotFound":
        return hub_error("encoder-missing", connection, "there is none, or it is private")
    if status == 401 and with_token and code != "GatedRepo":
        return hub_error("encoder-token", connection)
    if status in (401, 403):
        if with_token:
            reason = "yours was not, or its token may not read gated weights"
        elif status == 401 or code == "GatedRepo":
            reason = "no account is logged in"
        else:
            reason = "or a web filter of this network forbids it (HTTP 403)"
        return EncoderError(
            "encoder-gated",
            f"'{connection.host}' gives '{connection.hub_id}' only to accounts that were granted "
            f"access; {reason}.",
            page=f"{connection.endpoint}/{connection.hub_id}",
        )
    if status == 429:
        return EncoderError(
            "encoder-too-many",
            f"'{connection.host}' accepts no more requests from this network for now.",
            wait=_wait(headers.get("Retry-After", "")),
        )
    return hub_error("encoder-hub-down", connection, f"HTTP {status}")


def disk_error(error: OSError) -> EncoderError:
    """Make the error of a cache folder that cannot be written; it names no path."""
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    return EncoderError(
        "encoder-disk-full" if full else "encoder-cache",
        "The weights cannot be stored in the hub's cache folder "
        f"({error.strerror or type(error).__name__}).",
    )


def _wait(retry_after: str) -> str:
    """Return how long to wait, for the user, from `Retry-After` in seconds."""
    if not retry_after.isdecimal() or not 0 < (seconds := float(retry_after)) <= MAX_WAIT_S:
        return "a few minutes"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
