"""Pods of both workloads as data: what inference and tuning have in common, and KAITO's custom templates.

Pure rendering from a Workspace, its decision and the settings; the contract with the programs inside is
`runtime.contract`. Pods satisfy Pod Security Standard *restricted*, hold no service-account token, and read no Secret but
those mounted by name, each optional, so that the program can say which one is missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controller.planning import Decision
from controller.selection import node_selection
from controller.settings import Settings
from controller.world import BODY
from kube.api import labels
from kube.api.workspace import Workspace
from runtime import contract

USER = 1000  # any but root; files are shared through fsGroup
CA_VOLUME = "ca-bundle"
CA_KEY = "ca-bundle.crt"
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
TMP_DIR = "/tmp"  # the container's own; the root file system is read-only
MEBIBYTE = 1 << 20


@dataclass
class Parts:
    """Volumes, mounts and init containers, gathered while a pod is rendered."""

    volumes: list[BODY] = field(default_factory=list)
    mounts: list[BODY] = field(default_factory=list)  # of every container
    init: list[BODY] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    def volume(self, name: str, source: Mapping[str, Any], path: str, *, read_only: bool = False) -> None:
        """Add a volume that every container sees at `path`."""
        self.volumes.append({"name": name, **source})
        self.mounts.append({"name": name, "mountPath": path} | ({"readOnly": True} if read_only else {}))

    def secret(self, name: str) -> str:
        """Mount a Secret. Return its folder; the same Secret is mounted once."""
        folder = f"{contract.SECRETS_DIR}/{name}"
        if name not in self.secrets:
            self.secrets.append(name)
            # A Secret's name may have dots and 253 characters, a volume's may not.
            source = {"secret": {"secretName": name, "optional": True, "defaultMode": 0o440}}
            self.volume(f"secret-{len(self.secrets)}", source, folder, read_only=True)
        return folder

    def auth(self, names: Iterable[str]) -> list[str]:
        """Return the `--auth` flags of a fetch that these Secrets serve."""
        return [word for name in names for word in ("--auth", self.secret(name))]


def common_parts(workspace: Workspace, decision: Decision, settings: Settings) -> Parts:
    """Return what each pod has: scratch space, shared memory, the CA bundle, the user's ConfigMap."""
    parts = Parts()
    parts.volume("tmp", {"emptyDir": {}}, TMP_DIR)
    parts.volume("cache", {"emptyDir": {}}, contract.CACHE_DIR)
    shared = {"emptyDir": {"medium": "Memory", "sizeLimit": f"{4 * max(1, decision.rung.gpus_per_node)}Gi"}}
    parts.volume("dshm", shared, "/dev/shm")
    if settings.ca_bundle:
        source = {"configMap": {"name": ca_name(workspace)}}
        parts.volume(CA_VOLUME, source, contract.CA_BUNDLE.rpartition("/")[0], read_only=True)
    if decision.config_name:
        source = {"configMap": {"name": decision.config_name}}
        parts.volume("config-volume", source, contract.CONFIG_DIR, read_only=True)
    return parts


def fetch_weights(parts: Parts, decision: Decision) -> BODY:
    """Return the init container's arguments that bring the model's weights."""
    parts.volume("model-weights-volume", {"emptyDir": {}}, contract.WEIGHTS_DIR)
    weights = decision.weights
    source = ["--image", weights.image] if weights.image else ["--hub", weights.hub_id]
    if not weights.image and weights.revision:
        source += ["--revision", weights.revision]
    words = ["model", *source, "--to", contract.WEIGHTS_DIR, *parts.auth(weights.pull_secrets)]
    if weights.token_secret and not weights.image:
        words += ["--token-file", f"{parts.secret(weights.token_secret)}/{contract.HUB_TOKEN_KEY}"]
    return init_container("fetch-weights", words)


def init_container(name: str, words: Sequence[str]) -> BODY:
    """Return an init container that runs `runtime.fetch`; `pod` completes it."""
    return {"name": name, "command": ["python", "-m", "runtime.fetch"], "args": list(words)}


def pod(
    workspace: Workspace,
    decision: Decision,
    settings: Settings,
    parts: Parts,
    main: BODY,
    *,
    component: str,
    grace_seconds: int,
    plan: contract.ServePlan | contract.TunePlan,
    annotations: Mapping[str, str],
) -> BODY:
    """Return a pod template. `main` says command, ports and probes; everything that all containers share is added."""
    variables = environment(workspace, settings, grace_seconds)
    container = _container(settings, main | {"name": workspace.metadata.name}, parts, variables)
    container["env"].append({"name": contract.PLAN_ENV, "value": contract.encode(plan)})
    container["resources"] = resources(decision)
    config = {labels.CONFIG_HASH: decision.config_hash} if decision.config_hash else {}
    return {
        "metadata": {
            "labels": {labels.WORKSPACE: workspace.metadata.name, labels.COMPONENT: component},
            "annotations": config | dict(annotations),
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": grace_seconds,
            "tolerations": tolerations(decision.rung.gpu_resource),
            "affinity": affinity(workspace, settings),
            "initContainers": [_container(settings, each, parts, variables) for each in parts.init],
            "containers": [container],
            "volumes": parts.volumes,
        },
    }


def _container(settings: Settings, given: BODY, parts: Parts, variables: Sequence[BODY]) -> BODY:
    own = given.pop("extraMounts", [])
    return {
        "image": settings.runtime_image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "env": list(variables),
        "volumeMounts": [*parts.mounts, *own],
        "terminationMessagePath": contract.TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **given,
    }


def environment(workspace: Workspace, settings: Settings, grace_seconds: int) -> list[BODY]:
    """Return the variables that all programs share."""
    plain = {
        contract.WORKSPACE_ENV: workspace.metadata.name,
        contract.NAMESPACE_ENV: workspace.metadata.namespace,
        contract.GRACE_ENV: str(grace_seconds),
        "HOME": contract.CACHE_DIR,
        "HF_HOME": f"{contract.CACHE_DIR}/hub",
    }
    if settings.allowed_address_ranges:
        plain[contract.ALLOWED_RANGES_ENV] = ",".join(settings.allowed_address_ranges)
    if settings.hub_endpoint:
        plain["HF_ENDPOINT"] = settings.hub_endpoint
    if settings.ca_bundle:
        plain |= dict.fromkeys(CA_VARIABLES, contract.CA_BUNDLE)
    fields = {contract.POD_UID_ENV: "metadata.uid", contract.POD_INDEX_ENV: f"metadata.labels['{labels.POD_INDEX}']"}
    return [{"name": name, "value": value} for name, value in plain.items()] + [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()
    ]


def resources(decision: Decision) -> BODY:
    """Return requests that keep a pod off nodes that cannot hold it, and the GPUs, which have no overcommit."""
    rung = decision.rung
    gpu = {rung.gpu_resource: str(rung.gpus_per_node)}
    scratch = decision.weights.size // MEBIBYTE + 1024
    return {
        "requests": {"cpu": "500m", "memory": "2Gi", "ephemeral-storage": f"{scratch}Mi", **gpu},
        "limits": gpu,
    }


def tolerations(gpu_resource: str) -> list[BODY]:
    """Return the taints that GPU nodes are kept free by: NVIDIA's convention, KAITO's, and AKS' spot pools."""
    return [
        {"key": gpu_resource, "operator": "Exists", "effect": "NoSchedule"},
        {"key": labels.SKU_TAINT_KEY, "operator": "Equal", "value": labels.SKU_TAINT_VALUE, "effect": "NoSchedule"},
        {"key": labels.AZURE_SPOT, "operator": "Equal", "value": "spot", "effect": "NoSchedule"},
    ]


def affinity(workspace: Workspace, settings: Settings) -> BODY:
    """Return the node affinity that keeps a pod on its Workspace's nodes."""
    terms = [{"matchExpressions": node_selection(workspace, byo=settings.byo)}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def custom(workspace: Workspace, settings: Settings, template: Mapping[str, Any], component: str) -> BODY:
    """Return the user's own template on the Workspace's nodes: labels, tolerations and affinity are added, nothing else.

    The user's node affinity is kept: its terms are alternatives, so ours is added to each of them.
    """
    given_meta, given = dict(template.get("metadata") or {}), dict(template.get("spec") or {})
    ours = {labels.WORKSPACE: workspace.metadata.name, labels.COMPONENT: component}
    selection = node_selection(workspace, byo=settings.byo)
    merged = _deep(given.get("affinity") or {})
    required = merged.setdefault("nodeAffinity", {}).setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = required.get("nodeSelectorTerms") or [{}]
    required["nodeSelectorTerms"] = [
        term | {"matchExpressions": [*(term.get("matchExpressions") or []), *selection]} for term in terms
    ]
    return {
        "metadata": {
            **({"annotations": given_meta["annotations"]} if given_meta.get("annotations") else {}),
            "labels": (given_meta.get("labels") or {}) | ours,
        },
        "spec": given
        | {
            "tolerations": [*(given.get("tolerations") or []), *tolerations(labels.NVIDIA_GPU)],
            "affinity": merged,
        },
    }


def ca_name(workspace: Workspace) -> str:
    return f"{workspace.metadata.name}-ca"


def _deep(value: Any) -> Any:
    """Copy JSON: the user's template is a frozen object's and must stay as it is."""
    if isinstance(value, Mapping):
        return {key: _deep(item) for key, item in value.items()}
    return [_deep(item) for item in value] if isinstance(value, list) else value
