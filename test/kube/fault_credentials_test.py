"""Tokens and certificates that are rotated while a watch is open: it stays, and the next one comes with the new ones.

Each test is named in the table of fault_table_test.py. Over TLS; requests alone are in auth_test.py.
"""

import os
import shutil
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack.local.pki import Authority, Pair
from test.expect import eventually
from test.kube.looptime import LoopClock
from test.kube.mirror import Credential, Mirror, follows, heard, mirrored
from test.kube.server import WatchServer

# Credentials are looked at again once a minute.
MINUTE = 61.0


@dataclass
class Secured:
    """A server that asks for a certificate, and the files by which a client trusts it and is known to it."""

    server: WatchServer
    credential: Credential
    tls: ssl.SSLContext
    authority: Authority

    def present(self, pair: Pair) -> None:
        """Have the server show another certificate from now on."""
        self.tls.load_cert_chain(pair.certificate, pair.key)

    def replace(self, path: str | None, content: Path) -> None:
        """Put `content` where the client looks, as who rotates files does it."""
        assert path is not None
        shutil.copyfile(content, path)
        seconds = os.stat(path).st_mtime + 1  # file systems may keep no more than that
        os.utime(path, (seconds, seconds))


@pytest.fixture
async def secured(clock: LoopClock, tmp_path: Path) -> AsyncIterator[Secured]:
    authority = Authority(tmp_path / "pki")
    served, own = authority.server("server", ("127.0.0.1",)), authority.client("old", "old-name", [])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.pair.certificate))
    tls.load_cert_chain(served.certificate, served.key)
    tls.verify_mode = ssl.CERT_REQUIRED
    trusted = tmp_path / "ca.crt"
    shutil.copyfile(authority.pair.certificate, trusted)
    credential = Credential("first", str(trusted), str(own.certificate), str(own.key))
    async with WatchServer(clock, tls=tls) as server:
        server.token = "first"
        yield Secured(server, credential, tls, authority)


async def resumed(mirror: Mirror, server: WatchServer, clock: LoopClock) -> None:
    """A minute passes in which the watch is kept alive, and then it ends as agreed."""
    clock.jump(MINUTE)
    await heard(mirror, server)
    assert len(server.requests) == 1, "the open watch does not mind"
    server.expire()
    await eventually(lambda: len(server.requests) >= 2 and server.streams)


async def test_rotated_token_is_used_by_the_next_watch(secured: Secured, clock: LoopClock) -> None:
    server = secured.server
    async with mirrored(server, clock, secured.credential) as mirror:
        await follows(mirror, server)
        server.token = secured.credential.token = "second"
        await resumed(mirror, server, clock)
        server.history.put("a")
        await follows(mirror, server)
        assert sum(request.failed for request in server.requests) <= 1, "one refresh"


async def test_renewed_client_certificate_is_shown_by_the_next_watch(secured: Secured, clock: LoopClock) -> None:
    server = secured.server
    async with mirrored(server, clock, secured.credential) as mirror:
        await follows(mirror, server)
        renewed = secured.authority.client("new", "new-name", [])
        secured.replace(secured.credential.cert_file, renewed.certificate)
        secured.replace(secured.credential.key_file, renewed.key)
        await resumed(mirror, server, clock)
        assert [request.who for request in server.requests if request.watch] == ["old-name", "new-name"]
        server.history.put("a")
        await follows(mirror, server)


async def test_new_authority_is_trusted_once_it_is_in_our_file(
    secured: Secured, clock: LoopClock, tmp_path: Path
) -> None:
    server = secured.server
    async with mirrored(server, clock, secured.credential) as mirror:
        await follows(mirror, server)
        successor = Authority(tmp_path / "successor")
        secured.present(successor.server("server", ("127.0.0.1",)))
        server.history.put("a")
        await follows(mirror, server)
        server.drop()
        await eventually(lambda: mirror.reflector.metrics.failures >= 3)
        assert len(server.requests) == 1, "a stranger is told nothing"
        secured.replace(secured.credential.ca_file, successor.pair.certificate)
        server.history.put("b")
        await follows(mirror, server)


async def test_half_written_certificate_keeps_the_old_one(secured: Secured, clock: LoopClock, tmp_path: Path) -> None:
    server, unfinished = secured.server, tmp_path / "unfinished"
    unfinished.write_bytes(secured.authority.pair.certificate.read_bytes()[:100])
    async with mirrored(server, clock, secured.credential) as mirror:
        await follows(mirror, server)
        secured.replace(secured.credential.cert_file, unfinished)
        await resumed(mirror, server, clock)
        server.history.put("a")
        await follows(mirror, server)
