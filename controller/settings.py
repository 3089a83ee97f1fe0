"""The controller's settings: each is a flag, and an environment variable of the same name in capitals (`--ca-bundle`, CA_BUNDLE).

Knows how to parse, check and print them; nothing here reads the cluster. A wrong value ends the process at start with a
sentence that says what is allowed, since a Deployment that crashes at once is noticed and one that half works is not.
"""

import argparse
import ipaddress
import os
import pathlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from kube.lease import check_durations
from runtime.contract import Accelerator

PROVISIONERS = ("auto-provisioning", "byo")
LOG_LEVELS = ("debug", "info", "warning", "error")
KAITO_NODE_CLASS = "kaito.sh/KaitoNodeClass/default"


class SettingsError(Exception):
    """A setting has a value that cannot work. The text is for the person who starts the process."""


@dataclass(frozen=True)
class NodeClass:
    """The NodeClass that NodeClaims refer to, as group/kind/name."""

    group: str
    kind: str
    name: str

    @property
    def kaito(self) -> bool:
        """Whether claims carry KAITO's `storage` request and nodepool label, which only its provisioners understand."""
        return (self.group, self.kind) == ("kaito.sh", "KaitoNodeClass")


@dataclass(frozen=True)
class Settings:
    """Validated settings. `ca_bundle` holds the certificates themselves, so that a later change of the file cannot surprise."""

    runtime_image: str
    weights_registry: str = ""
    accelerator: str = Accelerator.CUDA
    node_provisioner: str = "auto-provisioning"
    node_class: NodeClass = NodeClass("kaito.sh", "KaitoNodeClass", "default")
    ca_bundle: str = ""
    allowed_address_ranges: tuple[str, ...] = ()
    hub_endpoint: str = ""
    leader_elect: bool = True
    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0
    workers: int = 16
    port: int = 8080
    log_level: str = "info"
    kubeconfig: str = ""
    pod_namespace: str = "kaito-system"
    pod_name: str = ""

    @property
    def byo(self) -> bool:
        """Whether nodes are brought by the user and never created here."""
        return self.node_provisioner == "byo"

    def printable(self) -> Mapping[str, Any]:
        """Return what is logged at start; a bundle is named by its size."""
        shown = {field.name: getattr(self, field.name) for field in fields(self)}
        return shown | {
            "ca_bundle": f"{len(self.ca_bundle)} bytes",
            "node_class": "/".join(vars(self.node_class).values()),
        }


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Parse flags over environment over defaults. Raises SettingsError; `--help` and unknown flags exit as argparse does."""
    given = parser(environment).parse_args(arguments)
    if not given.runtime_image:
        raise SettingsError("--runtime-image is required: the image that pods on GPU nodes run")
    lease_duration, renew_deadline, retry_period = _lease(given)
    return Settings(
        runtime_image=given.runtime_image,
        weights_registry=given.weights_registry.rstrip("/"),
        accelerator=_one_of("--accelerator", given.accelerator, tuple(Accelerator)),
        node_provisioner=_one_of("--node-provisioner", given.node_provisioner, PROVISIONERS),
        node_class=_node_class(given.node_class),
        ca_bundle=_ca_bundle(given.ca_bundle),
        allowed_address_ranges=_ranges(given.allowed_address_ranges),
        hub_endpoint=_endpoint(given.hub_endpoint),
        leader_elect=_flag("--leader-elect", given.leader_elect),
        lease_duration=lease_duration,
        renew_deadline=renew_deadline,
        retry_period=retry_period,
        workers=_number("--workers", given.workers, 1, 1000),
        port=_number("--port", given.port, 0, 65535),
        log_level=_one_of("--log-level", given.log_level.lower(), LOG_LEVELS),
        kubeconfig=given.kubeconfig,
        pod_namespace=environment.get("POD_NAMESPACE") or "kaito-system",
        pod_name=environment.get("POD_NAME") or socket.gethostname(),
    )


def parser(environment: Mapping[str, str] = os.environ) -> argparse.ArgumentParser:
    """Build the parser. Its help is the reference of the settings."""
    flags = argparse.ArgumentParser(
        prog="workspace-controller",
        description="Reconcile Workspaces: nodes for a model, then tuning and inference on them.",
        epilog="Every flag may be given as an environment variable: --runtime-image as RUNTIME_IMAGE. "
        "POD_NAMESPACE and POD_NAME come from the downward API and name the Lease's namespace and its holder.",
    )

    def add(name: str, default: str, text: str, metavar: str) -> None:
        value = environment.get(name.upper().replace("-", "_"), default)
        flags.add_argument(f"--{name}", default=value, metavar=metavar, help=f"{text} (default: {default or 'none'})")

    add("runtime-image", "", "image that GPU pods run; required", "IMAGE")
    add(
        "weights-registry",
        "",
        "registry with packed weights, <registry>/kaito-<preset>:<tag>; none = the hub",
        "REGISTRY",
    )
    add(
        "accelerator", Accelerator.CUDA, "what pods compute on: cuda, or cpu for test clusters without GPUs", "cuda|cpu"
    )
    add("node-provisioner", PROVISIONERS[0], "create NodeClaims, or use nodes that exist (byo)", "|".join(PROVISIONERS))
    add("node-class", KAITO_NODE_CLASS, "NodeClass of the NodeClaims", "GROUP/KIND/NAME")
    add("ca-bundle", "", "PEM file with every CA that pods trust, for registries and hubs behind a private one", "FILE")
    add("allowed-address-ranges", "", "private ranges that data URLs may reach, comma-separated", "CIDR,…")
    add("hub-endpoint", "", "mirror of the model hub; none = https://huggingface.co", "URL")
    add("leader-elect", "true", "act only while holding the Lease", "true|false")
    add("leader-elect-lease-duration", "15", "after that without a renewal another replica takes over", "SECONDS")
    add("leader-elect-renew-deadline", "10", "after that without a renewal the leader ends", "SECONDS")
    add("leader-elect-retry-period", "2", "between two attempts to renew or to acquire the Lease", "SECONDS")
    add("workers", "16", "Workspaces reconciled at once", "N")
    add("port", "8080", "port of /metrics, /healthz and /readyz", "PORT")
    add("log-level", "info", "least severe level that is logged", "|".join(LOG_LEVELS))
    add("kubeconfig", "", "kubeconfig file; none = in-cluster, else $KUBECONFIG or ~/.kube/config", "FILE")
    return flags


def _one_of(flag: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise SettingsError(f"{flag} is {value!r}; it must be one of {', '.join(allowed)}")
    return value


def _flag(flag: str, value: str) -> bool:
    return _one_of(flag, value.lower(), ("true", "false")) == "true"


def _lease(given: argparse.Namespace) -> tuple[float, float, float]:
    names = ("leader-elect-lease-duration", "leader-elect-renew-deadline", "leader-elect-retry-period")
    duration, deadline, period = (_seconds(f"--{name}", getattr(given, name.replace("-", "_"))) for name in names)
    try:
        check_durations(duration, deadline, period)
    except ValueError as error:
        raise SettingsError(f"{', '.join(f'--{name}' for name in names)}: {error}") from error
    return duration, deadline, period


def _seconds(flag: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise SettingsError(f"{flag} is {value!r}; it must be a number of seconds") from None


def _number(flag: str, value: str, least: int, most: int) -> int:
    if not value.isdecimal() or not least <= int(value) <= most:
        raise SettingsError(f"{flag} is {value!r}; it must be a number from {least} to {most}")
    return int(value)


def _node_class(value: str) -> NodeClass:
    parts = value.split("/")
    if len(parts) != 3 or not all(parts):
        raise SettingsError(f"--node-class is {value!r}; it must be GROUP/KIND/NAME, for example {KAITO_NODE_CLASS}")
    return NodeClass(*parts)


def _ca_bundle(path: str) -> str:
    if not path:
        return ""
    try:
        bundle = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--ca-bundle {path}: {error}") from error
    if "-----BEGIN CERTIFICATE-----" not in bundle:
        raise SettingsError(f"--ca-bundle {path}: holds no PEM certificate")
    return bundle


def _ranges(value: str) -> tuple[str, ...]:
    ranges = tuple(part.strip() for part in value.split(",") if part.strip())
    for part in ranges:
        try:
            ipaddress.ip_network(part)
        except ValueError as error:
            raise SettingsError(f"--allowed-address-ranges: {error}") from error
    return ranges


def _endpoint(value: str) -> str:
    if value and not value.startswith(("http://", "https://")):
        raise SettingsError(f"--hub-endpoint is {value!r}; it must be an http or https URL")
    return value.rstrip("/")
