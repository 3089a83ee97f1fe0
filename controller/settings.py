"""The workspace controller's settings: how they are parsed and checked. Nothing here reads the cluster."""

import ipaddress
import pathlib
from dataclasses import dataclass
from typing import Any

from kube.options import ProcessSettings, number, one_of, option
from runtime.contract import Accelerator

PROVISIONERS = ("auto-provisioning", "byo")


@dataclass(frozen=True)
class NodeClass:
    """The NodeClass that NodeClaims refer to."""

    group: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.group}/{self.kind}/{self.name}"

    @property
    def kaito(self) -> bool:
        """Whether claims carry KAITO's `storage` request and nodepool label, which only its provisioners understand."""
        return (self.group, self.kind) == ("kaito.sh", "KaitoNodeClass")


KAITO_NODE_CLASS = NodeClass("kaito.sh", "KaitoNodeClass", "default")


def _node_class(text: str) -> NodeClass:
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        raise ValueError(f"must be GROUP/KIND/NAME, for example {KAITO_NODE_CLASS}")
    return NodeClass(*parts)


def _ca_bundle(path: str) -> str:
    """Return the certificates themselves, so that a later change of the file cannot surprise."""
    if not path:
        return ""
    try:
        bundle = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read: {error}") from error
    if "-----BEGIN CERTIFICATE-----" not in bundle:
        raise ValueError("holds no PEM certificate")
    return bundle


def _ranges(text: str) -> tuple[str, ...]:
    ranges = tuple(part.strip() for part in text.split(",") if part.strip())
    for part in ranges:
        try:
            ipaddress.ip_network(part)
        except ValueError as error:
            raise ValueError(f"must be networks: {error}") from error
    return ranges


def _endpoint(text: str) -> str:
    if text and not text.startswith(("http://", "https://")):
        raise ValueError("must be an http or https URL")
    return text.rstrip("/")


@dataclass(frozen=True, kw_only=True)
class Settings(ProcessSettings):
    """Validated settings."""

    NAME = "workspace-controller"
    SUMMARY = "Reconcile Workspaces: nodes for a model, then tuning and inference on them."

    runtime_image: str = option("", "image that GPU pods run", required=True)
    weights_registry: str = option(
        "",
        "registry with packed weights, REGISTRY/kaito-<preset>:<tag>; empty: the hub",
        parse=lambda text: text.rstrip("/"),
    )
    accelerator: str = option(
        Accelerator.CUDA.value,
        "what pods compute on: cuda, or cpu for test clusters without GPUs",
        parse=one_of(*Accelerator),
    )
    node_provisioner: str = option(
        PROVISIONERS[0],
        "create NodeClaims (auto-provisioning), or use nodes that exist (byo)",
        parse=one_of(*PROVISIONERS),
    )
    node_class: NodeClass = option(KAITO_NODE_CLASS, "NodeClass of the NodeClaims, GROUP/KIND/NAME", parse=_node_class)
    ca_bundle: str = option(
        "", "PEM file with every CA that pods trust, for registries and hubs behind a private one", parse=_ca_bundle
    )
    allowed_address_ranges: tuple[str, ...] = option(
        (), "private ranges that data URLs may reach, CIDRs with commas between", parse=_ranges
    )
    hub_endpoint: str = option("", "mirror of the model hub; empty: https://huggingface.co", parse=_endpoint)
    workers: int = option(16, "Workspaces reconciled at once", parse=number(1, 1000))

    @property
    def byo(self) -> bool:
        """Whether nodes are brought by the user and never created here."""
        return self.node_provisioner == "byo"

    def public(self) -> dict[str, Any]:
        return super().public() | {
            "ca_bundle": f"{len(self.ca_bundle)} bytes",
            "node_class": str(self.node_class),
        }
