"""The box's own certificate authority: certificates for servers and users, the service-account key, kubeconfigs.

Everything lies in one folder and lives as long as one cluster. Knows nothing of who uses which certificate.
"""

import base64
import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=365)  # kubeadm's; a box lives for hours
CLOCK_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, in PEM."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates. Made once per folder; opened again, it is the same authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pair = Pair(folder / "ca.crt", folder / "ca.key")
        if not self.pair.certificate.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _write_authority(self.pair)
        self._certificate = x509.load_pem_x509_certificate(self.pair.certificate.read_bytes())
        key = serialization.load_pem_private_key(self.pair.key.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # written by us, below
        self._key = key

    def server(self, name: str, hosts: Sequence[str]) -> Pair:
        """A certificate for a server that is reached under `hosts`, names or addresses. A new one on each call."""
        return self._issue(name, name, (), hosts)

    def client(self, name: str, user: str, groups: Sequence[str] = ()) -> Pair:
        """A certificate that Kubernetes takes as `user` in `groups`. A new one on each call."""
        return self._issue(name, user, groups, ())

    def node(self, name: str, node: str, hosts: Sequence[str]) -> Pair:
        """A kubelet's: towards the API server it is a user, towards callers a server."""
        return self._issue(name, f"system:node:{node}", ("system:nodes",), hosts)

    def kubeconfig(self, path: Path, url: str, identity: Pair) -> Path:
        """Write a kubeconfig that holds all it needs, so that the file can be copied anywhere."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "aks-in-a-box",
            "clusters": [_named("cluster", {"server": url, "certificate-authority-data": _b64(self.pair.certificate)})],
            "users": [
                _named(
                    "user",
                    {"client-certificate-data": _b64(identity.certificate), "client-key-data": _b64(identity.key)},
                )
            ],
            "contexts": [_named("context", {"cluster": "aks-in-a-box", "user": "aks-in-a-box"})],
        }
        write_private(path, yaml.safe_dump(config).encode())
        return path

    def _issue(self, name: str, user: str, groups: Sequence[str], hosts: Sequence[str]) -> Pair:
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_name(user, groups), self._certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_usages(groups, hosts)), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
            )
        _write_pair(pair, builder.sign(self._key, hashes.SHA256()), key)
        return pair


def service_account_pair(folder: Path) -> Pair:
    """The RSA key that signs service-account tokens, and its public half; made once per folder."""
    pair = Pair(folder / "service-account.pub", folder / "service-account.key")
    if not pair.key.exists():
        folder.mkdir(parents=True, exist_ok=True)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = key.public_key()
        pair.certificate.write_bytes(
            public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        write_private(pair.key, _pem(key))
    return pair


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, with no moment at which others could."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
        handle.write(content)


def _write_authority(pair: Pair) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name("aks-in-a-box", ())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_pair(pair, certificate, key)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
    )


def _name(user: str, groups: Sequence[str]) -> x509.Name:
    """Kubernetes reads the user from CN and the groups from O."""
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _usages(groups: Sequence[str], hosts: Sequence[str]) -> list[x509.ObjectIdentifier]:
    usages = []
    if hosts:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    if groups or not hosts:
        usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    return usages


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_pair(pair: Pair, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    write_private(pair.key, _pem(key))
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _named(kind: str, value: dict[str, str]) -> dict[str, object]:
    return {"name": "aks-in-a-box", kind: value}


def _b64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
