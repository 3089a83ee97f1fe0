"""Certificates: who they name, what they are for, and that a real TLS handshake accepts them."""

import base64
import ssl
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hack.local.pki import Authority, Pair, service_account_pair


def _certificate(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate.read_bytes())


def _names(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(oid)]


def _usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_an_authority_opened_again_is_the_same_authority(tmp_path: Path) -> None:
    first = Authority(tmp_path).pair.certificate.read_bytes()
    assert Authority(tmp_path).pair.certificate.read_bytes() == first


def test_a_client_certificate_names_the_user_and_every_group(tmp_path: Path) -> None:
    certificate = _certificate(Authority(tmp_path).client("alice", "alice@example", ["dev", "ops"]))
    assert _names(certificate, NameOID.COMMON_NAME) == ["alice@example"]
    assert _names(certificate, NameOID.ORGANIZATION_NAME) == ["dev", "ops"]
    assert _usages(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_server_certificate_is_no_client_certificate(tmp_path: Path) -> None:
    certificate = _certificate(Authority(tmp_path).server("web", ["127.0.0.1", "web.example"]))
    assert _usages(certificate) == [ExtendedKeyUsageOID.SERVER_AUTH]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["web.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_a_kubelet_is_a_node_towards_the_api_server_and_a_server_towards_callers(tmp_path: Path) -> None:
    certificate = _certificate(Authority(tmp_path).node("n", "aks-x-0", ["198.18.0.1"]))
    assert _names(certificate, NameOID.COMMON_NAME) == ["system:node:aks-x-0"]
    assert _names(certificate, NameOID.ORGANIZATION_NAME) == ["system:nodes"]
    assert set(_usages(certificate)) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_a_tls_handshake_accepts_the_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, user = authority.server("web", ["web.example"]), authority.client("alice", "alice")
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.pair.certificate))
    theirs.load_cert_chain(server.certificate, server.key)
    theirs.verify_mode = ssl.CERT_REQUIRED
    ours = ssl.create_default_context(cafile=str(authority.pair.certificate))
    ours.load_cert_chain(user.certificate, user.key)
    _shake_hands(ours, theirs, "web.example")


def test_private_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    keys = [authority.pair.key, authority.client("alice", "alice").key, service_account_pair(tmp_path).key]
    assert [key.stat().st_mode & 0o777 for key in keys] == [0o600] * 3


def test_a_kubeconfig_holds_all_that_it_needs(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.client("alice", "alice")
    config = yaml.safe_load(authority.kubeconfig(tmp_path / "config", "https://127.0.0.1:1", pair).read_text())
    user = config["users"][0]["user"]
    assert base64.b64decode(user["client-certificate-data"]) == pair.certificate.read_bytes()
    assert base64.b64decode(user["client-key-data"]) == pair.key.read_bytes()
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:1"


def _shake_hands(ours: ssl.SSLContext, theirs: ssl.SSLContext, host: str) -> None:
    """Both sides of a handshake in memory, step by step. Raises SSLError when one refuses."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.wrap_bio(to_client, to_server, server_hostname=host)
    server = theirs.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
