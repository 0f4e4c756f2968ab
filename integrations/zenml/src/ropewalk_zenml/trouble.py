"""What goes wrong with NATS: which of it passes by itself, and what to say of it.

This is the one place that decides. What passes is tried again for as long as
somebody waits; what is final is told at once, because only a change of settings
or of permissions helps.
"""

import asyncio
import ssl
from dataclasses import dataclass

import nats.errors
from nats.js.errors import ServiceUnavailableError

from ropewalk_zenml.settings import Settings

NETWORK = (nats.errors.Error, OSError, asyncio.TimeoutError)
"""Everything that the library raises about the network and the server."""

OVERTAKEN = frozenset({10071, 10164})
"""The server's codes for a compare-and-set when another one has written, or, in a
cluster, is just writing."""

_REFUSED = ("authorization violation", "authorization failed", "authentication expired", "authentication revoked")
_ADDRESS = ("invalid connect url", "mixing of websocket", "invalid url")
_PASSING = (
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionDrainingError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.NoServersError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.StaleConnectionError,
    # JetStream answers to nobody while it starts or elects a leader.
    nats.errors.NoRespondersError,
    ServiceUnavailableError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    asyncio.TimeoutError,
)
_PASSING_WORDS = (
    "authentication timeout",
    "expecting info",
    "json parse error",
    "maximum account active connections",
    "maximum connections",
    "server shutdown",
    "stale connection",
)
"""What a server says that is busy, starts or stops."""


class UnreadableError(Exception):
    """A file that the settings name cannot be read."""


class ForbiddenError(Exception):
    """The user's permissions do not allow a subject; the text is the server's."""


@dataclass(frozen=True)
class Trouble:
    """What is wrong."""

    final: bool
    """Whether trying again is of no use before somebody has changed something."""
    text: str
    """A sentence: what happened, and what to do."""


def judge(problem: BaseException, settings: Settings) -> Trouble:
    """Say what a problem of the connection means. It never raises."""
    at, words = settings.address, str(problem).lower()
    if isinstance(problem, ForbiddenError):
        return Trouble(
            True,
            f"NATS at {at} does not allow this to the user of the ZenML server ({problem}); give it the "
            "permissions MAY_ZENML of deploy/nats/accounts.conf, and set ROPEWALK_NATS_INBOX as they say.",
        )
    if isinstance(problem, UnreadableError):
        return Trouble(True, f"The ZenML server cannot read {problem}.")
    if _refuses(problem, words):
        return Trouble(
            True,
            f"NATS at {at} refuses these credentials; set ROPEWALK_NATS_CREDENTIALS, "
            "or ROPEWALK_NATS_USER and ROPEWALK_NATS_PASSWORD, for the ZenML server.",
        )
    if isinstance(problem, nats.errors.SecureConnWantedError):
        return Trouble(
            True,
            f"NATS at {at} does not speak TLS, which ROPEWALK_NATS_URL or ROPEWALK_NATS_TLS_CA asks for; "
            "nothing was sent to it.",
        )
    if isinstance(problem, ssl.SSLCertVerificationError):
        reason = getattr(problem, "verify_message", problem)
        return Trouble(
            True,
            f"The certificate of NATS at {at} is not to be trusted ({reason}); set "
            "ROPEWALK_NATS_TLS_CA to the PEM file of the authority that has signed it, and see that "
            "ROPEWALK_NATS_URL has a name that is in it.",
        )
    if isinstance(problem, _PASSING) or any(word in words for word in _PASSING_WORDS):
        return Trouble(False, _away(at, problem))
    if isinstance(problem, (ssl.SSLError, nats.errors.SecureConnRequiredError, nats.errors.SecureConnFailedError)):
        return Trouble(
            True,
            f"There is no TLS with NATS at {at} ({problem}); see ROPEWALK_NATS_TLS_CA, "
            "ROPEWALK_NATS_TLS_CERT and ROPEWALK_NATS_TLS_KEY.",
        )
    if isinstance(problem, OSError):
        return Trouble(False, _away(at, problem))
    if isinstance(problem, ValueError) or any(word in words for word in _ADDRESS):
        return Trouble(True, f"ROPEWALK_NATS_URL={at} is no address such as nats://nats.example.com:4222 ({problem}).")
    if isinstance(problem, nats.errors.Error):
        return Trouble(True, f"NATS at {at} refuses: {problem}")
    return Trouble(True, f"The ZenML server cannot connect to NATS at {at}: {type(problem).__name__}: {problem}")


def _refuses(problem: BaseException, words: str) -> bool:
    if isinstance(problem, (nats.errors.AuthorizationError, nats.errors.InvalidUserCredentialsError)):
        return True
    return isinstance(problem, nats.errors.Error) and any(word in words for word in _REFUSED)


def _away(at: str, problem: BaseException) -> str:
    said = str(problem) or "no answer"
    return (
        f"No NATS server answers at {at} ({said}); see whether it runs and whether ROPEWALK_NATS_URL of the "
        "ZenML server names it, and run the snapshot again."
    )
