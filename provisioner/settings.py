"""What an operator can choose, checked once at the start.

Where gpu-provisioner or azure-identity already has a name for something, that name is accepted, so an existing Deployment's
environment works unchanged.
"""

from dataclasses import dataclass, replace
from typing import Self

from kube.options import ProcessSettings, number, one_of, option

CREDENTIALS = ("workload-identity", "managed-identity", "client-secret", "none")
# What each way to sign in needs beside the subscription, by field and by the variable that people know.
_NEEDED = {
    "workload-identity": ("tenant_id", "client_id", "federated_token_file"),
    "client-secret": ("tenant_id", "client_id", "client_secret"),
}


@dataclass(frozen=True, kw_only=True)
class Settings(ProcessSettings):
    """Checked values."""

    NAME = "kaito-node-provisioner"
    SUMMARY = "Node provisioner for AKS: makes one agent pool and one node for each Karpenter NodeClaim of KAITO's."

    subscription_id: str = option(
        "",
        "Azure subscription of the cluster",
        env=("AZURE_SUBSCRIPTION_ID", "ARM_SUBSCRIPTION_ID"),
        required=True,
    )
    resource_group: str = option(
        "", "resource group of the cluster", env=("ARM_RESOURCE_GROUP", "AZURE_RESOURCE_GROUP"), required=True
    )
    cluster_name: str = option("", "name of the AKS cluster", env=("AZURE_CLUSTER_NAME",), required=True)
    location: str = option("", "Azure region; empty: read from the cluster", env=("LOCATION", "AZURE_LOCATION"))
    credential: str = option(
        "",
        f"{', '.join(CREDENTIALS)}; empty: the first whose settings are there",
        env=("AZURE_CREDENTIAL",),
        parse=one_of(*CREDENTIALS),
    )
    tenant_id: str = option("", "Microsoft Entra tenant", env=("AZURE_TENANT_ID",))
    client_id: str = option("", "application or user-assigned managed identity", env=("AZURE_CLIENT_ID",))
    client_secret: str = option("", "password of the application", env=("AZURE_CLIENT_SECRET",), secret=True)
    federated_token_file: str = option("", "projected token of workload identity", env=("AZURE_FEDERATED_TOKEN_FILE",))
    authority_host: str = option("", "where tokens are issued, for sovereign clouds", env=("AZURE_AUTHORITY_HOST",))
    arm_endpoint: str = option(
        "https://management.azure.com",
        "Azure Resource Manager, for sovereign clouds and emulators",
        env=("ARM_ENDPOINT", "AZURE_RESOURCE_MANAGER_ENDPOINT"),
    )
    arm_audience: str = option("", "whom tokens are for; empty: the ARM endpoint")
    arm_api_version: str = option("", "API version of agent pools; empty: the SDK's")
    ca_bundle: str = option("", "PEM file of the authorities to trust besides the system's")
    workers: int = option(32, "NodeClaims reconciled at once", parse=number(1, 1000))
    launch_timeout: float = option(1800.0, "seconds until a claim without a machine has failed")
    registration_timeout: float = option(900.0, "seconds until a machine without a Node has failed")
    initialization_timeout: float = option(1200.0, "seconds until a Node must be ready; 0: no limit")
    gpus_required: bool = option(False, "nodes of GPU sizes are ready only with GPUs, requested or not")
    list_seconds: float = option(5.0, "period of the shared LIST of agent pools while something moves")
    idle_list_seconds: float = option(120.0, "the same while nothing does")
    orphan_grace: float = option(300.0, "seconds that an agent pool without a NodeClaim is left alone")
    gc_legacy: bool = option(False, "also collect pools that gpu-provisioner made (they have no owner tags)")
    node_repair: bool = option(True, "replace nodes that have not been ready for 10 minutes")

    def completed(self) -> Self:
        completed = replace(
            super().completed(),
            credential=self.credential or self._best_credential(),
            arm_audience=self.arm_audience or self.arm_endpoint,
        )
        completed._check_credential()
        return completed

    def _best_credential(self) -> str:
        if self.federated_token_file:
            return "workload-identity"
        return "client-secret" if self.client_secret else "managed-identity"

    def _check_credential(self) -> None:
        missing = [f"AZURE_{name.upper()}" for name in _NEEDED.get(self.credential, ()) if not getattr(self, name)]
        if missing:
            raise ValueError(f"--credential {self.credential} also needs {', '.join(missing)}")
        if self.credential != "none" and not self.arm_endpoint.startswith("https://"):
            raise ValueError(
                "--arm-endpoint must be https unless --credential is none: a token would travel in the clear"
            )
