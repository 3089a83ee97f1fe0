"""Which addresses a data URL may reach, decided where it cannot be cheated: on the address that is connected to.

A name is resolved once and the very address that was judged is dialled, for the first request and again after every
redirect. Private, loopback, link-local and other special ranges are refused unless ALLOWED_ADDRESS_RANGES covers them.
"""

import http.client
import ipaddress
import os
import socket
import ssl
import urllib.request
from collections.abc import Sequence

from runtime.contract import ALLOWED_RANGES_ENV, ExitCode, Reason
from runtime.fault import Fault, config_invalid

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NAT64 = ipaddress.ip_network("64:ff9b::/96")


def allowed_ranges(text: str | None = None) -> tuple[Network, ...]:
    """Parse comma-separated CIDRs, by default those of ALLOWED_ADDRESS_RANGES."""
    text = os.environ.get(ALLOWED_RANGES_ENV, "") if text is None else text
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise config_invalid(f"{ALLOWED_RANGES_ENV}: {error}") from error


def permitted(address: Address, ranges: Sequence[Network]) -> bool:
    """Say whether a data URL may reach `address`, looking through IPv6 forms that carry an IPv4 address."""
    address = _embedded(address)
    if any(address.version == network.version and address in network for network in ranges):
        return True
    return address.is_global and not address.is_multicast


def _embedded(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None) or address


def connect(host: str, port: int, timeout: float, ranges: Sequence[Network]) -> socket.socket:
    """Connect to the first permitted address of `host`. Raises Fault when there is none, OSError when none answers."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [(entry[0], entry[4]) for entry in found]
    usable = [(family, at) for family, at in addresses if permitted(ipaddress.ip_address(at[0]), ranges)]
    if not usable:
        raise Fault(
            ExitCode.INPUT_MISSING,
            Reason.DATA_FORBIDDEN,
            f"{host} is {addresses[0][1][0]}, a private or special address; an administrator can allow its range",
        )
    return _first_answer(usable, timeout)


def _first_answer(candidates: Sequence[tuple[int, tuple[object, ...]]], timeout: float) -> socket.socket:
    trouble: OSError | None = None
    for family, at in candidates:
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.settimeout(timeout)
        try:
            opened.connect(at)
        except OSError as error:
            opened.close()
            trouble = error
        else:
            return opened
    assert trouble is not None
    raise trouble


def opener(ranges: Sequence[Network]) -> urllib.request.OpenerDirector:
    """An opener for http and https alone, without proxies or cookies, that judges every connection it makes."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = connect(self.host, self.port, _seconds(self.timeout), ranges)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            opened = connect(self.host, self.port, _seconds(self.timeout), ranges)
            self.sock = ssl.create_default_context().wrap_socket(opened, server_hostname=self.host)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, request)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, request)

    director = urllib.request.OpenerDirector()
    for handler in (
        PlainHandler(),
        SecureHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        director.add_handler(handler)
    return director


def _seconds(timeout: float | None) -> float:
    return timeout if timeout is not None else 30.0
