"""Failures of a connection to a PACS, as errors of this program.

The text of an exception is not repeated: it holds addresses with UIDs.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from SpatialARAnomalyLib.engine.errors import PacsError

TIMEOUT_S = (10, 120)
"""Seconds within which a server must accept a connection, and then go on sending."""

_MESSAGES = {
    "pacs-certificate": "The certificate of '{host}' is not trusted: {reason}.",
    "pacs-cut": "The connection to '{host}' broke off.",
    "pacs-failed": "'{host}' answered with an error (HTTP {status}).",
    "pacs-login": "'{host}' refuses the login or the access (HTTP {status}).",
    "pacs-not-dicomweb": "What answers at '{host}' is not DICOMweb.",
    "pacs-not-found": "'{host}' has no such study or series, or its DICOMweb has another path.",
    "pacs-offline": "'{host}' cannot be reached ({reason}).",
    "pacs-slow": "'{host}' did not answer in time.",
    "pacs-tls": "'{host}' does not speak TLS.",
}


def pacs_error(code: str, host: str, *, reason: str = "", status: int = 0) -> PacsError:
    """Make the error of a code that has its message in `_MESSAGES`."""
    return PacsError(code, _MESSAGES[code].format(host=host, reason=reason, status=status))


@contextmanager
def translated(host: str) -> Iterator[None]:
    """Turn exceptions of the connection to a server into `PacsError`."""
    from requests.exceptions import RequestException

    try:
        yield
    except (RequestException, ConnectionError, ssl.SSLError) as error:
        raise _translate(error, host) from None


def _translate(error: BaseException, host: str) -> PacsError:
    causes = list(_causes(error))
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    response = getattr(error, "response", None)
    if response is not None and "JSONDecodeError" not in names:
        return _http_error(int(response.status_code), host)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return pacs_error("pacs-certificate", host, reason=cause.verify_message.rstrip("."))
    if any("WRONG_VERSION_NUMBER" in str(cause) for cause in causes if isinstance(cause, OSError)):
        return pacs_error("pacs-tls", host)
    if names & {"gaierror", "NameResolutionError"}:
        return pacs_error("pacs-offline", host, reason="its name is not known to this network")
    if "ConnectionRefusedError" in names:
        return pacs_error("pacs-offline", host, reason="nothing answers there")
    if names & {"Timeout", "ReadTimeoutError"}:
        return pacs_error("pacs-slow", host)
    if names & {"NewConnectionError", "ProxyError"}:
        return pacs_error("pacs-offline", host, reason="no connection")
    if names & {"JSONDecodeError", "InvalidSchema", "InvalidURL", "TooManyRedirects"}:
        return pacs_error("pacs-not-dicomweb", host)
    return pacs_error("pacs-cut", host)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception, and all that it was raised from or holds."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        held = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        waiting += [other for other in held if isinstance(other, BaseException)]


def _http_error(status: int, host: str) -> PacsError:
    if status in (401, 403, 407):
        return pacs_error("pacs-login", host, status=status)
    if status in (404, 410):
        return pacs_error("pacs-not-found", host)
    if status in (408, 504):
        return pacs_error("pacs-slow", host)
    if status in (400, 405, 406):
        return pacs_error("pacs-not-dicomweb", host)
    return pacs_error("pacs-failed", host, status=status)
