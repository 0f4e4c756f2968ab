"""Which troubles with NATS pass and which are final, and how long the server's threads wait."""

import asyncio
import errno
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError, ServiceUnavailableError

from ropewalk_zenml import connection as connection_module
from ropewalk_zenml import link as link_module
from ropewalk_zenml import wire
from ropewalk_zenml.errors import RopewalkError, UnreachableError
from ropewalk_zenml.link import Link
from ropewalk_zenml.settings import Settings
from ropewalk_zenml.trouble import ForbiddenError, UnreadableError, judge

from .conftest import LIMIT, PASSWORD, Nats, Proxy, eventually, free_port


async def look(js: JetStreamContext) -> None:
    """Ask for something that the plugin may ask for."""
    try:
        await js.stream_info(f"KV_{wire.WORKLOADS}")
    except NotFoundError:
        return


@pytest.fixture
def links() -> Iterator[list[Link]]:
    made: list[Link] = []
    yield made
    for each in made:
        each.close()


def connect(links: list[Link], settings: Settings) -> Link:
    links.append(Link(settings))
    return links[-1]


@pytest.mark.parametrize(
    "problem",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        socket.gaierror(-2, "Name or service not known"),
        OSError(errno.EHOSTUNREACH, "no route"),
        asyncio.TimeoutError(),
        nats.errors.TimeoutError(),
        nats.errors.ConnectionClosedError(),
        nats.errors.StaleConnectionError(),
        nats.errors.UnexpectedEOF(),
        nats.errors.NoServersError(),
        nats.errors.NoRespondersError(),
        nats.errors.OutboundBufferLimitError(),
        nats.errors.Error("nats: 'Authentication Timeout'"),
        nats.errors.Error("nats: maximum connections exceeded"),
        nats.errors.Error("nats: empty response from server when expecting INFO message"),
        ServiceUnavailableError(code=503),
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
    ],
    ids=lambda problem: f"{type(problem).__name__} {problem}",
)
def test_what_passes_by_itself(problem: BaseException) -> None:
    trouble = judge(problem, Settings())
    assert not trouble.final
    assert trouble.text.startswith("No NATS server answers at nats://127.0.0.1:4222")


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (nats.errors.AuthorizationError(), "refuses these credentials"),
        (nats.errors.InvalidUserCredentialsError(), "refuses these credentials"),
        (nats.errors.Error("nats: 'Authorization Violation'"), "refuses these credentials"),
        (nats.errors.Error("nats: 'User Authentication Expired'"), "refuses these credentials"),
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), "is not to be trusted"),
        (ssl.SSLError(1, "tlsv13 alert certificate required"), "There is no TLS"),
        (nats.errors.SecureConnWantedError(), "does not speak TLS"),
        (ForbiddenError("permissions violation for publish to x"), "MAY_ZENML"),
        (UnreadableError("ROPEWALK_NATS_TLS_CA=/a: No such file"), "cannot read ROPEWALK_NATS_TLS_CA=/a"),
        (ValueError("Port could not be cast to integer value"), "is no address such as"),
        (nats.errors.Error("nats: invalid connect url option"), "is no address such as"),
        (NotFoundError(code=404), "refuses"),
        (RuntimeError("bad seed"), "RuntimeError: bad seed"),
    ],
)
def test_what_is_final(problem: BaseException, says: str) -> None:
    trouble = judge(problem, Settings())
    assert trouble.final
    assert says in trouble.text


@pytest.mark.parametrize("address", ["http://nats:4222", "nats://", "nats://nats:none", "nats://a,nats://b:99999"])
def test_an_address_that_is_none_is_told_without_its_password(address: str) -> None:
    hidden = address.replace("//", "//user:hidden@", 1)
    for each in (address, hidden):
        with pytest.raises(RopewalkError, match="ROPEWALK_NATS_URL has what is no address") as refusal:
            Settings.load({"ROPEWALK_NATS_URL": each})
        assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize("inbox", ["_INBOX.", "_INBOX.>", "_INBOX.*", "a b", ".a"])
def test_an_inbox_that_is_none_is_told(inbox: str) -> None:
    with pytest.raises(RopewalkError, match="ROPEWALK_NATS_INBOX is not what a subject may begin with"):
        Settings.load({"ROPEWALK_NATS_INBOX": inbox})
    assert Settings.load({"ROPEWALK_NATS_INBOX": "_INBOX.zenml"}).inbox == "_INBOX.zenml"


def test_a_wrong_password_is_told_at_once_and_healed_in_the_background(
    nats: Nats, links: list[Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_FINAL_PAUSE", 0.2)
    # An hour would be waited if it counted as a server that is away.
    link = connect(links, nats.settings(password="wrong", timeout=3600))
    with pytest.raises(UnreachableError, match=r"refuses these credentials; set ROPEWALK_NATS_CREDENTIALS"):
        link.call(look)
    nats.kill()
    nats.configure(zenml="wrong")
    nats.start()
    eventually(lambda: answers(link))


def answers(link: Link) -> bool:
    try:
        link.call(look)
    except UnreachableError:
        return False
    return True


def test_without_an_inbox_of_its_own_the_server_says_which_permission_is_missing(nats: Nats, links: list[Link]) -> None:
    link = connect(links, nats.settings(inbox=None, timeout=8))
    for _ in range(2):  # the second call subscribes to nothing new
        with pytest.raises(RopewalkError, match=r"permissions violation for subscription to.*MAY_ZENML.*NATS_INBOX"):
            link.call(look)


def test_a_subject_that_is_forbidden_is_named(nats: Nats, links: list[Link]) -> None:
    link = connect(links, nats.settings(timeout=3600))

    async def purge(js: JetStreamContext) -> None:
        await js.purge_stream(wire.RUNS)

    link.call(look)
    connection = link._process().connection
    connection._settings = nats.settings(timeout=2)  # the request itself has a limit
    with pytest.raises(RopewalkError, match=r"(?i)violation for publish to.*STREAM.PURGE.RUNS.*MAY_ZENML"):
        link.call(purge)


@pytest.mark.parametrize("name", ["credentials", "tls_ca", "tls_cert"])
def test_a_file_that_cannot_be_read_is_named(name: str, nats: Nats, links: list[Link]) -> None:
    link = connect(links, nats.settings(**{name: "/nowhere/file"}, timeout=3600))
    with pytest.raises(UnreachableError, match=rf"cannot read ROPEWALK_NATS_{name.upper()}=/nowhere/file: No such"):
        link.call(look)


def certificate(folder: Path) -> dict[str, Path]:
    """Make a certificate for 127.0.0.1 that vouches for itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nats")])
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = {"cert": folder / "tls.crt", "key": folder / "tls.key"}
    files["cert"].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files["key"].write_bytes(key.private_bytes(pem, form, plain))
    return files


def test_a_certificate_is_checked_before_anything_is_said(nats: Nats, tmp_path: Path, links: list[Link]) -> None:
    files = certificate(tmp_path)
    nats.kill()
    nats.configure(f'tls {{ cert_file: "{files["cert"]}", key_file: "{files["key"]}" }}\n')
    nats.start()
    with pytest.raises(UnreachableError, match=r"is not to be trusted \(.*\); set ROPEWALK_NATS_TLS_CA"):
        connect(links, nats.settings(timeout=3600)).call(look)
    connect(links, nats.settings(tls_ca=str(files["cert"]))).call(look)
    (tmp_path / "garbage").write_text("no certificate")
    with pytest.raises(UnreachableError, match="There is no TLS with NATS"):
        connect(links, nats.settings(tls_ca=str(tmp_path / "garbage"), timeout=3600)).call(look)


@pytest.mark.parametrize("login", [{}, {"user": None, "password": None, "token": PASSWORD}])
def test_no_secret_is_sent_in_the_clear_where_tls_is_asked_for(
    login: dict[str, Any], nats: Nats, links: list[Link]
) -> None:
    proxy = Proxy(nats.port, mute_after=b"\x00never\x00")
    try:
        settings = nats.settings(servers=(proxy.address.replace("nats://", "tls://"),), timeout=3600, **login)
        with pytest.raises(UnreachableError, match="does not speak TLS"):
            connect(links, settings).call(look)
        assert PASSWORD.encode() not in proxy.sent
        connect(links, nats.settings(servers=(proxy.address,))).call(look)
        assert PASSWORD.encode() in proxy.sent
    finally:
        proxy.close()


def test_while_nats_does_not_answer_half_of_the_servers_threads_stay_free(nats: Nats, links: list[Link]) -> None:
    proxy = Proxy(nats.port, mute_after=b"STREAM.INFO.KV_ropewalk-zenml")
    link = connect(links, nats.settings(servers=(proxy.address,), timeout=12))
    try:
        with ThreadPoolExecutor(link_module._THREADS) as threads:
            # Each call waits until it is answered, and asks again every three seconds.
            held = [threads.submit(link.call, look, LIMIT) for _ in range(link_module._THREADS)]
            assert proxy.muted.wait(LIMIT)
            eventually(lambda: link._process().turns._value == 0)
            with pytest.raises(UnreachableError, match="20 requests to this ZenML server wait for NATS"):
                link.call(look)
            assert not any(each.done() for each in held)
            proxy.speak()
            for each in held:
                each.result(LIMIT)
        link.call(look)
    finally:
        proxy.close()


def test_what_is_away_for_long_is_not_waited_for_again(links: list[Link]) -> None:
    link = connect(links, Settings(servers=(f"nats://127.0.0.1:{free_port()}",), timeout=600))
    connection = link._process().connection
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(answers, link)
        eventually(lambda: connection._away_since is not None)
        # Ten minutes later:
        assert connection._away_since is not None
        connection._away_since -= 600
        with pytest.raises(UnreachableError, match="No NATS server answers"):
            threads.submit(link.call, look).result(LIMIT)
        assert not waiting.done()
        link.close()


def test_a_task_that_misses_its_end_is_told_again(nats: Nats) -> None:
    link, missed, ended = Link(nats.settings()), threading.Event(), threading.Event()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            missed.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    link.spawn(stubborn())
    link.call(look)
    link.close()
    assert missed.is_set()
    assert ended.is_set()
