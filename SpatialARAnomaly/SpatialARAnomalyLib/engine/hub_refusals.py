"""What it means that the hub did not give what was asked for, and what can be done."""

import http.client
import re
import socket
import ssl
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from time import time

from .errors import EncoderError

UNGATED_ID = "timm/vit_small_patch16_dinov3.lvd1689m"
"""The ViT-S weights without a gate; the license is the same."""

OTHER_WAYS = (
    f"or give a local folder or .safetensors file; or use the ungated '{UNGATED_ID}', which "
    "needs no account."
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked of whom, and how."""

    hub_id: str
    page: str
    host: str
    proxy: str | None
    """`host:port` of the proxy in between."""
    timeout_s: float
    with_token: bool


def refusal(error: BaseException, asked: Asked) -> EncoderError:
    """The error that says what happened; `error` is an exception of `urllib` or a socket."""
    if isinstance(error, EncoderError):
        return error
    if isinstance(error, urllib.error.HTTPError):
        return _answered(error.code, error.headers, asked)
    return _unanswered(list(_causes(error)), asked)


def _answered(status: int, headers: Message, asked: Asked) -> EncoderError:
    what, said = headers.get("X-Error-Code") or "", headers.get("X-Error-Message") or ""
    name = f"'{asked.hub_id}'"
    if status == 407:
        return _proxy(asked, "asks for a user name and a password")
    if status == 401 and asked.with_token and what != "GatedRepo":
        return EncoderError(
            "encoder-token",
            "The hub does not accept the token: it is wrong, or was revoked.",
            "Make a new one on your account's page (Settings, Access Tokens; the role 'read' is "
            "enough), or log in again with 'hf auth login'.",
        )
    if status == 401 and asked.with_token:
        return EncoderError(
            "encoder-gated",
            f"The hub gives {name} only to accounts that were granted access; the token is of "
            "none of them, or is wrong.",
            f"Ask for access on {asked.page}, and check the token on your account's page "
            f"(Settings, Access Tokens); {OTHER_WAYS}",
        )
    if status == 401 and what != "RepoNotFound" and "Repository Not Found" not in said:
        return EncoderError(
            "encoder-gated",
            f"The hub gives {name} only to accounts that were granted access, and nobody is "
            "logged in.",
            f"Accept the terms on {asked.page}, make a token in your account's settings, and "
            f"give it here or log in with 'hf auth login'; {OTHER_WAYS}",
        )
    if status == 403:
        if what == "GatedRepo" or asked.with_token:
            return EncoderError(
                "encoder-gated",
                f"The hub gives {name} only to accounts that were granted access; yours has not "
                "been, or its token may not read gated weights.",
                f"Ask for access on {asked.page} and wait until it is granted; {OTHER_WAYS}",
            )
        return EncoderError(
            "encoder-gated",
            f"'{asked.host}' refuses to give {name} (HTTP 403): access has to be granted, or a "
            "web filter of your network forbids it.",
            f"Open {asked.page} in a browser to see which; {OTHER_WAYS}",
        )
    if status in (401, 404):
        return EncoderError(
            "encoder-missing",
            f"The hub has no {name}, or it is private.",
            f"Check the id; the ungated DINOv3 ViT-S is '{UNGATED_ID}'.",
        )
    if status == 429:
        return EncoderError(
            "encoder-too-many",
            f"'{asked.host}' answers no more requests for now: there were too many from your "
            "network.",
            f"{_wait(headers.get('Retry-After'))} What has arrived is kept.",
        )
    if status >= 500:
        return EncoderError(
            "encoder-hub-down",
            f"'{asked.host}' has a fault of its own (HTTP {status}).",
            "Try again in a few minutes: what has arrived is kept.",
        )
    return EncoderError(
        "encoder-hub-down",
        f"'{asked.host}' answered what was not expected (HTTP {status}).",
        f"Open {asked.page} in a browser to see whether it can be reached.",
    )


def _unanswered(causes: list[BaseException], asked: Asked) -> EncoderError:
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return _tls(cause, asked)
        if tunnel := re.search(r"Tunnel connection failed: (\d+)", str(cause)):
            return _proxy(asked, f"refused the connection (HTTP {tunnel[1]})")
        if isinstance(cause, (TimeoutError, socket.timeout)):
            return slow(asked)
    if any(isinstance(cause, (ValueError, http.client.InvalidURL)) for cause in causes):
        return EncoderError(
            "encoder-not-a-hub",
            f"'{asked.host}' leads to an address that is none.",
            "Open the address in a browser to see what answers there; check HF_ENDPOINT and "
            "HTTPS_PROXY.",
        )
    if asked.proxy is not None and any(
        isinstance(cause, (socket.gaierror, ConnectionRefusedError)) for cause in causes
    ):
        return _proxy(asked, "cannot be reached")
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        what = f"There is no way to '{asked.host}': its name is not known to this network"
    elif any(isinstance(one, (ConnectionResetError, http.client.HTTPException)) for one in causes):
        return cut(asked)
    else:
        kind = type(causes[-1]).__name__
        what = f"'{asked.host}' cannot be reached ({kind})"
    return EncoderError(
        "encoder-offline",
        f"{what}. This machine may be offline.",
        "Check the connection, and HTTPS_PROXY if your network has a proxy; or copy the weights "
        "from another machine and give the local folder or .safetensors file.",
    )


def slow(asked: Asked) -> EncoderError:
    """The hub was silent for too long."""
    return EncoderError(
        "encoder-slow",
        f"'{asked.host}' sent nothing for {asked.timeout_s:g} s.",
        "Try again: what has arrived is kept. On a slow connection set HF_HUB_DOWNLOAD_TIMEOUT "
        "to more seconds.",
    )


def cut(asked: Asked) -> EncoderError:
    """The connection ended before the file did."""
    return EncoderError(
        "encoder-cut",
        f"The connection to '{asked.host}' broke off.",
        "Try again: the download goes on where it stopped.",
    )


def _tls(error: ssl.SSLError, asked: Asked) -> EncoderError:
    reason = getattr(error, "verify_message", "") or error.reason or str(error)
    return EncoderError(
        "encoder-tls",
        f"The encrypted connection to '{asked.host}' is not trusted or could not be made "
        f"({reason}).",
        "Networks of hospitals often inspect connections with a certificate of their own: have "
        "your IT install it in the system, or set SSL_CERT_FILE to its .pem file. Check this "
        "machine's date, too.",
    )


def _proxy(asked: Asked, what: str) -> EncoderError:
    return EncoderError(
        "encoder-proxy",
        f"The proxy {asked.proxy or 'of your network'} on the way to '{asked.host}' {what}.",
        "Check HTTPS_PROXY (http://user:password@host:port), or ask your IT to let "
        f"'{asked.host}' through.",
    )


def _wait(retry_after: str | None) -> str:
    """How long the hub asks to wait: `Retry-After` is in seconds, or a date."""
    seconds = 0.0
    if retry_after is not None and retry_after.strip().isdecimal():
        seconds = float(retry_after)
    elif retry_after:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time()
        except (ValueError, OverflowError):
            seconds = 0.0
    if not 1 <= seconds <= 86400:
        return "Wait a few minutes, then try again."
    if seconds < 120:
        return f"Wait {round(seconds)} s, then try again."
    return f"Wait {round(seconds / 60)} min, then try again."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and those it came from: `urllib` wraps what a socket says."""
    while error is not None:
        yield error
        reason = getattr(error, "reason", None)
        wrapped = reason if isinstance(reason, BaseException) else None
        error = wrapped or error.__cause__ or error.__context__
