"""Why a download from the Hugging Face hub failed, and what can be done about it.

huggingface_hub wraps an HTTP client (requests, httpx or httpx2, depending on its version). The
exceptions are recognized by the names of their classes and by the operating system's errors
they were raised from, so that this file imports neither.
"""

import errno
import http.client
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time

from SpatialARAnomalyLib.engine.errors import EncoderError

UNGATED_ID = "timm/vit_small_patch16_dinov3.lvd1689m"
"""Hub id of the paper's ViT-S/16, without a gate; the license is the same as for Meta's copies."""

OTHER_WAYS = (
    f"or give a local folder or .safetensors file; or use the ungated '{UNGATED_ID}', which "
    "needs no account."
)

_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))

_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 1, 86400
"""Range of a server's `Retry-After` that is repeated to the user."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The weights asked for, the server, and the way to it."""

    hub_id: str
    page: str
    """Address at which the hub shows the weights, and where access is requested."""
    host: str
    proxy: str | None
    """`host:port` of the proxy, if there is one."""
    timeout_s: float
    """Seconds of silence after which a download fails."""


def refusal(error: BaseException, connection: Connection) -> EncoderError:
    """Translate an exception of huggingface_hub or its HTTP client into an `EncoderError`.

    The text of `error` is not repeated: it may hold a token or a signed address.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, EncoderError):
            return cause
        response = getattr(cause, "response", None)
        if response is not None:
            with_token = "authorization" in response.request.headers
            return _http_refusal(response.status_code, response.headers, with_token, connection)
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    if "HFValidationError" in names:
        return _missing(connection)
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            return _untrusted(cause, connection)
    for cause in causes:
        if type(cause).__name__ == "ProxyError":
            status = re.match(r"\d{3}", str(cause))
            what = f"refuses the connection (HTTP {status[0]})" if status else "cannot be reached"
            return _proxy_refusal(connection, what)
    if names & {"TimeoutException", "Timeout", "TimeoutError"}:
        return slow(connection)
    if names & {"TransportError", "RequestException", "OfflineModeIsEnabled"}:
        return _unreachable(causes, names, connection)
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno is not None:
            return disk_refusal(cause, connection.hub_id)
    if names & {"FileMetadataError", "ValueError", "InvalidURL"}:
        return not_a_hub(connection)
    if "OSError" in names:  # huggingface_hub: the file is shorter than announced
        return cut(connection)
    return EncoderError(
        "encoder-hub-down",
        f"'{connection.host}' gave an unexpected answer ({type(error).__name__}).",
        f"Open {connection.page} in a browser to see whether it can be reached.",
    )


def _http_refusal(
    status: int, headers: Mapping[str, str], with_token: bool, connection: Connection
) -> EncoderError:
    code, said = headers.get("X-Error-Code") or "", headers.get("X-Error-Message") or ""
    name, host = f"'{connection.hub_id}'", connection.host
    if status == 407:
        return _proxy_refusal(connection, "asks for a user name and a password")
    if status == 404 and code == "EntryNotFound":
        return lacks_files(connection.hub_id)
    if status == 404 or code == "RepoNotFound" or "Repository Not Found" in said:
        return _missing(connection)
    if status == 401 and with_token and code != "GatedRepo":
        return EncoderError(
            "encoder-token",
            "The hub does not accept the token: it is wrong or was revoked.",
            "Make a new one on your account's page (Settings, Access Tokens; the role 'read' is "
            "enough), or log in again with 'hf auth login'.",
        )
    if status in (401, 403) and not with_token:
        if status == 403 and code != "GatedRepo":
            return EncoderError(
                "encoder-gated",
                f"'{host}' refuses {name} (HTTP 403): access has to be granted, or a web filter "
                "of your network forbids it.",
                f"Open {connection.page} in a browser to see which; {OTHER_WAYS}",
            )
        return EncoderError(
            "encoder-gated",
            f"The hub gives {name} only to accounts that were granted access, and nobody is "
            "logged in.",
            f"Accept the terms on {connection.page}, make a token in your account's settings, "
            f"and give it here or log in with 'hf auth login'; {OTHER_WAYS}",
        )
    if status in (401, 403):
        return EncoderError(
            "encoder-gated",
            f"The hub gives {name} only to accounts that were granted access; yours was not, or "
            "its token is wrong or may not read gated weights.",
            f"Ask for access on {connection.page} and wait until it is granted; check the token "
            f"on your account's page (Settings, Access Tokens); {OTHER_WAYS}",
        )
    if status == 429:
        return EncoderError(
            "encoder-too-many",
            f"'{host}' accepts no more requests for now: there were too many from your network.",
            _wait(headers.get("Retry-After")),
        )
    if status >= 500:
        return EncoderError(
            "encoder-hub-down",
            f"'{host}' has an internal fault (HTTP {status}).",
            "Try again in a few minutes.",
        )
    return EncoderError(
        "encoder-hub-down",
        f"'{host}' gave an unexpected answer (HTTP {status}).",
        f"Open {connection.page} in a browser to see whether it can be reached.",
    )


def _unreachable(
    causes: list[BaseException], names: set[str], connection: Connection
) -> EncoderError:
    """The error for a request that got no answer, or half of one."""
    unknown = any(isinstance(cause, socket.gaierror) for cause in causes)
    refused = any(isinstance(cause, ConnectionRefusedError) for cause in causes)
    if names & {"UnsupportedProtocol", "InvalidURL"}:
        return not_a_hub(connection)
    if connection.proxy is not None and (unknown or refused):
        return _proxy_refusal(connection, "cannot be reached")
    broken = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, http.client.HTTPException)
    if names & {"ProtocolError", "ReadError", "WriteError", "ChunkedEncodingError"} or any(
        isinstance(cause, broken) for cause in causes
    ):
        return cut(connection)
    why = "its name is not known to this network" if unknown else type(causes[-1]).__name__
    return EncoderError(
        "encoder-offline",
        f"'{connection.host}' cannot be reached ({why}). This machine may be offline.",
        "Check the connection, and HTTPS_PROXY if your network has a proxy; or copy the weights "
        "from another machine and give the local folder or .safetensors file.",
    )


def slow(connection: Connection) -> EncoderError:
    """The error for a server that was silent for too long."""
    return EncoderError(
        "encoder-slow",
        f"'{connection.host}' sent nothing for {connection.timeout_s:g} s.",
        "Try again. On a slow connection set HF_HUB_DOWNLOAD_TIMEOUT to more seconds.",
    )


def cut(connection: Connection) -> EncoderError:
    """The error for a connection that ended before the file did."""
    return EncoderError(
        "encoder-cut",
        f"The connection to '{connection.host}' broke off.",
        "Try again. If it breaks off every time, bring the weights from another machine.",
    )


def not_a_hub(connection: Connection) -> EncoderError:
    """The error for an answer that no hub gives."""
    named = " (HF_ENDPOINT names it)" if os.environ.get("HF_ENDPOINT") else ""
    return EncoderError(
        "encoder-not-a-hub",
        f"What answered at '{connection.host}' is not a Hugging Face hub{named}: perhaps the "
        "login or warning page of a network.",
        "Open the address in a browser, log in to the network or have your IT allow it, then "
        "try again.",
    )


def lacks_files(hub_id: str) -> EncoderError:
    """The error for an id of the hub without weights that can be read."""
    return EncoderError(
        "encoder-missing",
        f"The hub's '{hub_id}' lacks config.json, or weights in .safetensors files.",
        "Choose weights as transformers or timm publish them, in .safetensors files.",
    )


def disk_refusal(error: OSError, hub_id: str) -> EncoderError:
    """The error for a cache folder that cannot be written; it names no path."""
    full = error.errno in _DISK_FULL
    return EncoderError(
        "encoder-disk-full" if full else "encoder-cache",
        f"The weights of '{hub_id}' cannot be stored in the hub's cache folder "
        f"({error.strerror or type(error).__name__}).",
        "Free disk space, or set HF_HOME to a folder on another disk."
        if full
        else "Set HF_HOME to a folder that can be written.",
    )


def _missing(connection: Connection) -> EncoderError:
    return EncoderError(
        "encoder-missing",
        f"The hub has no '{connection.hub_id}', or it is private.",
        f"Check the id; the ungated DINOv3 ViT-S is '{UNGATED_ID}'.",
    )


def _untrusted(error: ssl.SSLError, connection: Connection) -> EncoderError:
    reason = getattr(error, "verify_message", "") or error.reason or type(error).__name__
    return EncoderError(
        "encoder-tls",
        f"The encrypted connection to '{connection.host}' is not trusted or could not be made "
        f"({reason}).",
        "Networks of hospitals often inspect connections with a certificate of their own: have "
        "your IT install it in the system, or set REQUESTS_CA_BUNDLE to its .pem file. Check "
        "this machine's date, too.",
    )


def _proxy_refusal(connection: Connection, what: str) -> EncoderError:
    return EncoderError(
        "encoder-proxy",
        f"The proxy {connection.proxy or 'of your network'} on the way to '{connection.host}' "
        f"{what}.",
        "Check HTTPS_PROXY (http://user:password@host:port), or ask your IT to let "
        f"'{connection.host}' through.",
    )


def _wait(retry_after: str | None) -> str:
    """Say how long to wait, from `Retry-After` in seconds or as a date."""
    seconds = 0.0
    try:
        if retry_after and retry_after.strip().isdecimal():
            seconds = float(retry_after)
        elif retry_after:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time()
    except (ValueError, OverflowError):
        seconds = 0.0
    if not _SHORTEST_WAIT_S <= seconds <= _LONGEST_WAIT_S:
        return "Wait a few minutes, then try again."
    if seconds < 120:
        return f"Wait {round(seconds)} s, then try again."
    return f"Wait {round(seconds / 60)} min, then try again."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those it was raised from, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
