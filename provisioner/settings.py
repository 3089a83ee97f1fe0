"""What an operator can choose, from flags or the environment (flags win), checked once at the start.

Every setting has both: `--cluster-name` is `AZURE_CLUSTER_NAME`. Where gpu-provisioner or azure-identity already has a name
for something, that name is accepted, so an existing Deployment's environment works unchanged. Secrets come from the
environment alone: a flag can be read by everybody who can list processes.
"""

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from kube.lease import check_durations

CREDENTIALS = ("workload-identity", "managed-identity", "client-secret", "none")
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@dataclass(frozen=True)
class Option:
    """One setting: the environment variables in the order in which they are looked up, and what `--help` says."""

    name: str
    env: tuple[str, ...]
    default: Any
    help: str
    secret: bool = False

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


OPTIONS = (
    Option(
        "subscription_id", ("AZURE_SUBSCRIPTION_ID", "ARM_SUBSCRIPTION_ID"), "", "Azure subscription of the cluster"
    ),
    Option("resource_group", ("ARM_RESOURCE_GROUP", "AZURE_RESOURCE_GROUP"), "", "resource group of the cluster"),
    Option("cluster_name", ("AZURE_CLUSTER_NAME",), "", "name of the AKS cluster"),
    Option("location", ("LOCATION", "AZURE_LOCATION"), "", "Azure region; read from the cluster when empty"),
    Option(
        "credential", ("AZURE_CREDENTIAL",), "", f"{', '.join(CREDENTIALS)}; empty: the first whose settings are there"
    ),
    Option("tenant_id", ("AZURE_TENANT_ID",), "", "Microsoft Entra tenant"),
    Option("client_id", ("AZURE_CLIENT_ID",), "", "application or user-assigned managed identity"),
    Option("client_secret", ("AZURE_CLIENT_SECRET",), "", "password of the application", secret=True),
    Option("federated_token_file", ("AZURE_FEDERATED_TOKEN_FILE",), "", "projected token of workload identity"),
    Option("authority_host", ("AZURE_AUTHORITY_HOST",), "", "where tokens are issued, for sovereign clouds"),
    Option(
        "arm_endpoint",
        ("ARM_ENDPOINT", "AZURE_RESOURCE_MANAGER_ENDPOINT"),
        "https://management.azure.com",
        "Azure Resource Manager, for sovereign clouds and emulators",
    ),
    Option("arm_audience", ("ARM_AUDIENCE",), "", "whom tokens are for; empty: the ARM endpoint"),
    Option("arm_api_version", ("ARM_API_VERSION",), "", "API version of agent pools; empty: the SDK's"),
    Option("ca_bundle", ("CA_BUNDLE",), "", "PEM file of the authorities to trust besides the system's"),
    Option("kubeconfig", ("KUBECONFIG",), "", "how to reach Kubernetes; empty inside a cluster"),
    Option(
        "leader_elect", ("LEADER_ELECT",), True, "work only while holding the lease; needed for more than one replica"
    ),
    Option(
        "leader_elect_lease_duration",
        ("LEADER_ELECT_LEASE_DURATION",),
        15.0,
        "seconds without a renewal after which another replica takes over",
    ),
    Option(
        "leader_elect_renew_deadline",
        ("LEADER_ELECT_RENEW_DEADLINE",),
        10.0,
        "seconds without a renewal after which the leader ends",
    ),
    Option(
        "leader_elect_retry_period",
        ("LEADER_ELECT_RETRY_PERIOD",),
        2.0,
        "seconds between two attempts to renew or to acquire the lease",
    ),
    Option("lease_namespace", ("LEADER_ELECTION_NAMESPACE", "POD_NAMESPACE"), "kaito-system", "where the lease is"),
    Option("lease_name", ("LEADER_ELECTION_NAME",), "kaito-node-provisioner", "name of the lease"),
    Option("identity", ("POD_NAME",), "", "name of this replica in the lease and in events; empty: the host's name"),
    Option("address", ("ADDRESS",), "", "address to serve metrics and probes on; empty: all"),
    Option("port", ("METRICS_PORT",), 8080, "port of /metrics, /healthz and /readyz"),
    Option("workers", ("WORKERS",), 32, "NodeClaims reconciled at the same time"),
    Option("launch_timeout", ("LAUNCH_TIMEOUT",), 1800, "seconds until a claim without a machine has failed"),
    Option("registration_timeout", ("REGISTRATION_TIMEOUT",), 900, "seconds until a machine without a Node has failed"),
    Option(
        "initialization_timeout", ("INITIALIZATION_TIMEOUT",), 1200, "seconds until a Node must be ready; 0: no limit"
    ),
    Option("gpus_required", ("GPUS_REQUIRED",), False, "nodes of GPU sizes are ready only with GPUs, requested or not"),
    Option("list_seconds", ("LIST_SECONDS",), 5.0, "period of the shared LIST of agent pools while something moves"),
    Option("idle_list_seconds", ("IDLE_LIST_SECONDS",), 120.0, "the same while nothing does"),
    Option("orphan_grace", ("ORPHAN_GRACE",), 300, "seconds that an agent pool without a NodeClaim is left alone"),
    Option(
        "gc_legacy", ("GC_LEGACY",), False, "also collect pools that gpu-provisioner made (they have no owner tags)"
    ),
    Option("node_repair", ("NODE_REPAIR",), True, "replace nodes that have not been ready for 10 minutes"),
    Option("log_level", ("LOG_LEVEL",), "info", "debug, info, warning or error"),
)


@dataclass(frozen=True)
class Settings:
    """Checked values; see OPTIONS for what each one means."""

    subscription_id: str
    resource_group: str
    cluster_name: str
    location: str = ""
    credential: str = "none"
    tenant_id: str = ""
    client_id: str = ""
    client_secret: str = ""
    federated_token_file: str = ""
    authority_host: str = ""
    arm_endpoint: str = "https://management.azure.com"
    arm_audience: str = "https://management.azure.com"
    arm_api_version: str = ""
    ca_bundle: str = ""
    kubeconfig: str = ""
    leader_elect: bool = True
    leader_elect_lease_duration: float = 15.0
    leader_elect_renew_deadline: float = 10.0
    leader_elect_retry_period: float = 2.0
    lease_namespace: str = "kaito-system"
    lease_name: str = "kaito-node-provisioner"
    identity: str = ""
    address: str = ""
    port: int = 8080
    workers: int = 32
    launch_timeout: float = 1800
    registration_timeout: float = 900
    initialization_timeout: float = 1200
    gpus_required: bool = False
    list_seconds: float = 5.0
    idle_list_seconds: float = 120.0
    orphan_grace: float = 300
    gc_legacy: bool = False
    node_repair: bool = True
    log_level: str = "info"
    user_agent: str = "kaito-node-provisioner"

    def public(self) -> dict[str, Any]:
        """What may be logged."""
        secret = {option.name for option in OPTIONS if option.secret}
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in secret}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m provisioner",
        description="Node provisioner for AKS: makes one agent pool and one node for each Karpenter NodeClaim of KAITO's.",
        epilog="Environment variables are in brackets; a flag wins over them.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=120),
    )
    for option in OPTIONS:
        if not option.secret:
            default = "" if option.default in ("", None) else f" (default {option.default})"
            made.add_argument(option.flag, metavar="", help=f"{option.help}{default} [{', '.join(option.env)}]")
    secrets = ", ".join(option.env[0] for option in OPTIONS if option.secret)
    made.add_argument_group("only from the environment", f"{secrets}")
    return made


def load(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read, check and complete the settings. Exits with a message (argparse's way) on anything wrong."""
    made = parser()
    given = vars(made.parse_args(arguments))
    try:
        values = {option.name: _value(option, given.get(option.name), environment) for option in OPTIONS}
        return Settings(**_completed(values))
    except ValueError as error:
        made.error(str(error))


def _value(option: Option, flag: str | None, environment: Mapping[str, str]) -> Any:
    found = (
        flag if flag is not None else next((environment[name] for name in option.env if environment.get(name)), None)
    )
    if found is None:
        return option.default
    try:
        return _parsed(found, type(option.default))
    except ValueError:
        raise ValueError(f"{option.flag}: {found!r} is not a {type(option.default).__name__}") from None


def _parsed(text: str, kind: type) -> Any:
    if kind is not bool:
        return kind(text)
    if text.lower() not in TRUE + FALSE:
        raise ValueError
    return text.lower() in TRUE


def _completed(values: dict[str, Any]) -> dict[str, Any]:
    missing = [option.flag for option in OPTIONS[:3] if not values[option.name]]
    if missing:
        raise ValueError(f"which cluster? {', '.join(missing)} must be given (or its environment variable, see --help)")
    values["credential"] = values["credential"] or _best_credential(values)
    if values["credential"] not in CREDENTIALS:
        raise ValueError(f"--credential: {values['credential']!r} is none of {', '.join(CREDENTIALS)}")
    _check_credential(values)
    check_durations(*(values[f"leader_elect_{each}"] for each in ("lease_duration", "renew_deadline", "retry_period")))
    values["arm_audience"] = values["arm_audience"] or values["arm_endpoint"]
    values["identity"] = values["identity"] or socket.gethostname()
    return values


def _best_credential(values: Mapping[str, Any]) -> str:
    if values["federated_token_file"]:
        return "workload-identity"
    return "client-secret" if values["client_secret"] else "managed-identity"


def _check_credential(values: Mapping[str, Any]) -> None:
    needs = {
        "workload-identity": ("tenant_id", "client_id", "federated_token_file"),
        "client-secret": ("tenant_id", "client_id", "client_secret"),
    }.get(values["credential"], ())
    missing = [option.env[0] for option in OPTIONS if option.name in needs and not values[option.name]]
    if missing:
        raise ValueError(f"--credential {values['credential']} also needs {', '.join(missing)}")
    if values["credential"] != "none" and not values["arm_endpoint"].startswith("https://"):
        raise ValueError("--arm-endpoint must be https unless --credential is none: a token would travel in the clear")
