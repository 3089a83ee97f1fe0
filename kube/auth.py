"""Where the API server is, who we are to it, and the HTTP session that both need.

Two sources: the files that the kubelet mounts into a pod, and a kubeconfig. Either is read again when it may have changed:
the pod's token every minute and everything after a 401, so that rotated tokens, certificates and authorities are picked up
without a restart. Refuses to know requests, retries and kinds; `kube.client` is the only caller.

A kubeconfig is read by kubernetes-asyncio (exec plugins, OIDC, embedded certificates). It is imported there and then,
because its models cost 65 MiB that a controller in a pod never needs: the two mounted files are read right here.
"""

import asyncio
import ipaddress
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from kube import errors
from kube.clock import Clock

log = logging.getLogger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# client-go re-reads a bound token once a minute; the kubelet renews it at 80 % of its (at least ten minutes of) life.
REFRESH_SECONDS = 60.0
# What may wait in a connection until it is read: some fifty objects.
READ_BUFFER = 2**18


@dataclass(frozen=True)
class Identity:
    """One reading of the credentials. Equal readings mean that nothing has to be built anew."""

    host: str
    authorization: str = ""
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
    server_name: str | None = None
    proxy: str | None = None


Source = Callable[[], Awaitable[Identity]]


def in_cluster() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


async def from_service_account() -> Identity:
    """What the kubelet mounted into this pod. Raises OSError when that is incomplete."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    bracketed = f"[{host}]" if ":" in host else host
    token = _text(SERVICE_ACCOUNT / "token")
    address = f"https://{bracketed}:{port}"
    return Identity(
        address,
        authorization=f"Bearer {token}",
        ca_file=str(SERVICE_ACCOUNT / "ca.crt"),
        proxy=_environment_proxy(address),
    )


def from_kubeconfig(path: str) -> Source:
    """A source for `path`, or for $KUBECONFIG or ~/.kube/config where it is empty."""

    async def read() -> Identity:
        from kubernetes_asyncio.client.configuration import Configuration
        from kubernetes_asyncio.config import ConfigException, load_kube_config
        from yaml import YAMLError

        configuration = Configuration()
        try:
            await load_kube_config(config_file=path or None, client_configuration=configuration, persist_config=False)
        except (ConfigException, YAMLError, TypeError) as error:  # TypeError: YAML of another shape than a kubeconfig
            raise errors.NoCredentials(f"the kubeconfig {path or 'of $KUBECONFIG'} cannot be used: {error}") from error
        return Identity(
            str(configuration.host),
            authorization=configuration.api_key.get("BearerToken", ""),
            ca_file=configuration.ssl_ca_cert,
            cert_file=configuration.cert_file,
            key_file=configuration.key_file,
            verify=configuration.verify_ssl,
            server_name=configuration.tls_server_name,
            proxy=configuration.proxy or _environment_proxy(str(configuration.host)),
        )

    return read


class Auth:
    """Hands out sessions, and renews what they are made of.

    A session whose certificate or authority was replaced serves the requests that it carries and is closed after the
    last one; new requests use its successor at once.
    """

    def __init__(self, source: Source, identity: Identity, clock: Clock) -> None:
        self._source = source
        # Reading a kubeconfig may start an exec plugin: only a 401 is worth that. Rotated files are cheap.
        self._cheap = source is from_service_account
        self._clock = clock
        self._refreshing = asyncio.Lock()
        self._read_at = clock.monotonic()
        self._generation = 0
        self._identity, self._pool = identity, _Pool(identity)

    @classmethod
    async def load(cls, source: Source, clock: Clock) -> "Auth":
        """Read the credentials for the first time. Raises NoCredentials."""
        try:
            return cls(source, await source(), clock)
        except OSError as error:  # also what TLS says about a certificate that is none
            raise errors.NoCredentials(f"the credentials cannot be read: {error}") from error

    @property
    def host(self) -> str:
        return self._identity.host

    @property
    def generation(self) -> int:
        """Counts the readings; pass it to `refresh` to say which one was refused."""
        return self._generation

    @asynccontextmanager
    async def session(self) -> AsyncIterator[tuple[aiohttp.ClientSession, Identity]]:
        """The session to send one request with; it stays open as long as the block runs."""
        if self._clock.monotonic() - self._read_at >= REFRESH_SECONDS:
            await self.refresh(self._generation, periodic=True)
        pool = self._pool
        pool.users += 1
        try:
            yield pool.session, self._identity
        finally:
            pool.users -= 1
            await pool.close_if_retired()

    async def refresh(self, refused: int, *, periodic: bool = False) -> bool:
        """Read the credentials again, once for all requests that were refused with the same reading.

        Says whether there are others now: without, a refused request would be refused again.
        """
        async with self._refreshing:
            if refused != self._generation:
                return True
            self._read_at = self._clock.monotonic()
            identity, pool = self._identity, self._pool
            reuse = periodic and not self._cheap
            try:
                self._adopt(self._identity if reuse else await self._source())
            except (OSError, errors.NoCredentials):
                # Half-written by whoever rotates it. The old reading may still work; the next minute reads again.
                log.exception("Re-reading the credentials failed")
            # Only now: who asks meanwhile asks with the old reading. And a look at the certificates alone is no reading:
            # whoever is refused with this identity still has to read again.
            self._generation += not reuse
            if self._pool is not pool:
                await pool.retire()
            return self._pool is not pool or self._identity != identity

    async def close(self) -> None:
        await self._pool.session.close()

    def _adopt(self, identity: Identity) -> None:
        if self._pool.fingerprint != _fingerprint(identity):
            self._pool = _Pool(identity)
        self._identity = identity


class _Pool:
    """A session and the number of requests that it carries."""

    def __init__(self, identity: Identity) -> None:
        self.fingerprint = _fingerprint(identity)  # first: what is replaced from here on is seen by the next look
        self.session = _session(identity)
        self.users = 0
        self._retired = False

    async def retire(self) -> None:
        self._retired = True
        await self.close_if_retired()

    async def close_if_retired(self) -> None:
        if self._retired and not self.users:
            await self.session.close()


def _session(identity: Identity) -> aiohttp.ClientSession:
    context = _context(identity) if identity.host.startswith("https:") else False
    # No limit: every watch holds a connection of its own, and a request must not wait behind them.
    connector = aiohttp.TCPConnector(limit=0, ssl=context)
    session = aiohttp.ClientSession(connector=connector, read_bufsize=READ_BUFFER, trace_configs=[_last_word()])
    # aiohttp asks once more, at once, where a connection dies unanswered. How often a server in trouble is asked is not
    # its business, and there is no public switch.
    session._retry_connection = False
    return session


def _last_word() -> aiohttp.TraceConfig:
    """Have what came with a request as `trace_request_ctx` called once it has a connection, before its first byte is sent.

    What it raises ends the request. Connecting may take seconds, and a process may stand still meanwhile.
    """

    async def about_to_send(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx()

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(about_to_send)  # called before they are, whatever its name
    return config


def _context(identity: Identity) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=identity.ca_file)
    # Kubernetes' own certificate authorities may lack the extensions that Python 3.13 began to insist on.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if identity.cert_file:
        context.load_cert_chain(identity.cert_file, identity.key_file)
    if not identity.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _environment_proxy(host: str) -> str | None:
    """What HTTPS_PROXY and NO_PROXY say of `host`. Asked once; aiohttp would look it up for each request, in a thread."""
    parts = urlsplit(host)
    proxies = getproxies()
    name = parts.hostname or ""
    if proxy_bypass(name) or _in_networks(name, proxies.get("no", "")):
        return None
    return proxies.get(parts.scheme)


def _in_networks(name: str, no_proxy: str) -> bool:
    """Whether `name` is an address inside one of NO_PROXY's networks, which Go understands and Python does not."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    for entry in no_proxy.split(","):
        with suppress(ValueError):  # a name
            if address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
    return False


def _fingerprint(identity: Identity) -> object:
    """Changes when a file that the TLS context was made of is replaced."""
    files = (identity.ca_file, identity.cert_file, identity.key_file)
    stats = tuple((path, os.stat(path).st_mtime_ns) for path in files if path)
    return identity.host, stats, identity.verify, identity.server_name


def _text(path: Path) -> str:
    content = path.read_text(encoding="utf-8").strip()
    if not content:
        raise OSError(f"{path} is empty")
    return content
