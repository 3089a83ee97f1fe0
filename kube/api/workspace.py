"""The Workspace kind, `kaito.sh/v1beta1`: KAITO's fields to the letter, and the few that we add.

KAITO gave it no `spec`: `resource`, `inference` and `tuning` stand at the top. v1alpha1 is the same type with one default
more (`hack/generate` knows it); objects are stored as v1beta1. Says nothing about how a Workspace is reconciled, and
leaves pod templates and volume sources as the JSON that the user wrote.
"""

import enum
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from kube.api import volume
from kube.api import workspace_rules as rules
from kube.api.schema import field
from kube.meta import Condition, Object, Resource, Wire

GROUP = "kaito.sh"

# Upper case is let through: the registry has the last word, and documentation is full of PLACEHOLDERS.
IMAGE = r"^([A-Za-z0-9]+([._:-]+[A-Za-z0-9]+|/[A-Za-z0-9]+)*(@sha256:[0-9a-f]{64})?)?$"
INSTANCE_TYPE = r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$"

Json = Mapping[str, Any]
Volume = Annotated[
    Json | None,
    field(
        "A volume, as in a pod; no hostPath.", x_opaque=True, properties=volume.PROPERTIES, rules=rules.VOLUME_SOURCE
    ),
]
SecretName = Annotated[str, field("Name of a Secret in the Workspace's namespace.", maxLength=253)]
SecretNames = Annotated[tuple[SecretName, ...], field("Names of Secrets that may pull the image.", maxItems=10)]
Image = Annotated[
    str, field("Image reference: registry/repository:tag or @sha256:digest.", maxLength=512, pattern=IMAGE)
]
InstanceType = Annotated[str, field("Name of an instance type.", maxLength=63, pattern=INSTANCE_TYPE)]
LabelValue = Annotated[str, field("", maxLength=63)]


class ConditionType(enum.StrEnum):
    """Types in `status.conditions`. WORKSPACE_READY is the root; READY and WORKSPACE_SUCCEEDED always repeat it."""

    NODE_CLAIM_READY = "NodeClaimReady"
    NODES_READY = "NodesReady"
    RESOURCE_READY = "ResourceReady"
    JOB_STARTED = "JobStarted"
    TUNED = "Tuned"  # ours; once True it is never taken back, whatever becomes of the Job
    INFERENCE_READY = "InferenceReady"
    WORKSPACE_READY = "WorkspaceReady"  # the seed's
    READY = "Ready"  # kstatus: kubectl wait, Flux, Argo CD
    WORKSPACE_SUCCEEDED = "WorkspaceSucceeded"  # KAITO's clients
    WORKSPACE_DELETING = "WorkspaceDeleting"


class State(enum.StrEnum):
    """`status.state`: KAITO's one-word summary."""

    PENDING = "Pending"
    READY = "Ready"
    NOT_READY = "NotReady"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class OnSuccess(enum.StrEnum):
    """What follows a tuning that succeeded: serve its result on the same nodes, or give the nodes back."""

    SERVE = "Serve"
    RELEASE = "Release"


class CapacityType(enum.StrEnum):
    SPOT = "spot"
    ON_DEMAND = "on-demand"


class LabelSelectorRequirement(Wire, frozen=True, kw_only=True):
    key: Annotated[str, field("The label's key.", required=True, maxLength=316)]
    operator: Annotated[
        str, field("How values are compared.", required=True, enum=["In", "NotIn", "Exists", "DoesNotExist"])
    ]
    values: Annotated[tuple[LabelValue, ...], field("Values to compare with.", maxItems=50)] = ()


class LabelSelector(Wire, frozen=True, kw_only=True):
    match_labels: Annotated[
        Mapping[str, LabelValue], field("Labels of the nodes; new nodes are given them.", maxProperties=50)
    ] = {}
    match_expressions: Annotated[
        tuple[LabelSelectorRequirement, ...], field("Conditions on node labels, all of which must hold.", maxItems=20)
    ] = ()


class Partition(Wire, frozen=True, kw_only=True):
    mode: Annotated[str, field("How one GPU is shared.", required=True, enum=["mig", "accelerator"])]
    profile: Annotated[str, field("MIG profile, such as 1g.10gb.", maxLength=32)] = ""
    count: Annotated[int | None, field("Number of shares; in accelerator mode only.", minimum=1)] = None


class Provisioning(Wire, frozen=True, kw_only=True):
    timeout: Annotated[
        str,
        field(
            "How long to wait for nodes of one instance type before the next one is tried, such as 30m.",
            maxLength=16,
            pattern=r"^([0-9]+(s|m|h))+$",
        ),
    ] = ""


class ResourceSpec(Wire, frozen=True, kw_only=True):
    """Fields that only steer the creation of nodes may change; they apply to the nodes that are created afterwards."""

    label_selector: Annotated[
        LabelSelector | None, field("Nodes that may run the workload.", required=True, rules=rules.LABEL_SELECTOR)
    ] = None
    instance_type: Annotated[
        InstanceType, field("Instance type of the nodes. Without one the planner chooses; with `byo` leave it out.")
    ] = ""
    count: Annotated[
        int | None,
        field("Number of nodes. Deprecated: the planner knows how many the model needs.", minimum=1, default=1),
    ] = None
    preferred_nodes: Annotated[
        tuple[Annotated[str, field("", maxLength=253)], ...], field("Deprecated; without effect.", maxItems=64)
    ] = ()
    partition: Annotated[
        Partition | None, field("Part of a GPU, on nodes that exist already.", rules=rules.PARTITION)
    ] = None
    instance_types: Annotated[
        tuple[InstanceType, ...], field("Instance types to try after `instanceType`, in this order.", maxItems=10)
    ] = ()
    capacity_types: Annotated[
        tuple[Annotated[CapacityType, field("")], ...],
        field(
            "Kinds of capacity, in order of preference; absent: on-demand.", maxItems=2, x_kubernetes_list_type="set"
        ),
    ] = ()
    zones: Annotated[
        tuple[LabelValue, ...],
        field("Zones that nodes may be in; absent: any.", maxItems=10, x_kubernetes_list_type="set"),
    ] = ()
    provisioning: Annotated[Provisioning | None, field("Patience with the creation of nodes.")] = None


class PresetOptions(Wire, frozen=True, kw_only=True):
    image: Annotated[
        Image, field("Image with the model's weights, in place of the catalogue's. Deprecated by KAITO.")
    ] = ""
    image_pull_secrets: Annotated[SecretNames, field("Names of Secrets that may pull `image`.")] = ()
    model_access_secret: Annotated[SecretName, field("Name of the Secret whose key HF_TOKEN opens a gated model.")] = ""


class Preset(Wire, frozen=True, kw_only=True):
    name: Annotated[
        str,
        field(
            "Name of a preset of the catalogue, or its hub id: org/model. Ids outside the catalogue are not supported yet.",
            required=True,
            maxLength=128,
            x_rule="preset-name",
        ),
    ]
    revision: Annotated[
        str, field("Commit or tag of the model; absent: the catalogue's, else the newest.", maxLength=128)
    ] = ""
    access_mode: Annotated[str, field("Deprecated; without effect.", enum=["public", "private"], default="public")] = ""
    preset_options: Annotated[PresetOptions, field("Where the weights come from.")] = PresetOptions()


class DataSource(Wire, frozen=True, kw_only=True):
    name: Annotated[str, field("Name of the data, or of the adapter.", maxLength=253)] = ""
    urls: Annotated[
        tuple[Annotated[str, field("", maxLength=2048, rules=rules.URL)], ...],
        field("URLs of the files.", maxItems=50),
    ] = ()
    volume_source: Volume = None
    image: Image = ""
    image_pull_secrets: SecretNames = ()


class DataDestination(Wire, frozen=True, kw_only=True):
    volume_source: Volume = None
    image: Annotated[Image, field("Image reference that the result is pushed to: registry/repository:tag.")] = ""
    image_push_secret: Annotated[SecretName, field("Name of the Secret that may push `image`.")] = ""


class Adapter(Wire, frozen=True, kw_only=True):
    source: Annotated[DataSource | None, field("The adapter's name and where it is.", required=True)] = None
    strength: Annotated[
        str, field("Weight of the adapter: a number from 0 to 1, as text.", maxLength=8, rules=rules.STRENGTH)
    ] = ""


class InferenceSpec(Wire, frozen=True, kw_only=True):
    preset: Annotated[Preset | None, field("The model to serve.")] = None
    template: Annotated[Json | None, field("A pod template of your own, in place of a preset.", x_opaque=True)] = None
    config: Annotated[str, field("ConfigMap whose key inference_config.yaml sets engine options.", maxLength=253)] = ""
    adapters: Annotated[
        tuple[Annotated[Adapter, field("", rules=rules.ADAPTER)], ...],
        field("Adapters to serve beside the model.", maxItems=10, rules=rules.ADAPTERS),
    ] = ()


class TuningSpec(Wire, frozen=True, kw_only=True):
    preset: Annotated[Preset | None, field("The model to tune.", required=True)] = None
    method: Annotated[str, field("lora or qlora, in any case.", required=True, maxLength=16, rules=rules.METHOD)] = ""
    config: Annotated[str, field("ConfigMap whose key training_config.yaml sets training options.", maxLength=253)] = ""
    input: Annotated[DataSource | None, field("The training data.", required=True, rules=rules.TUNING_INPUT)] = None
    output: Annotated[
        DataDestination | None, field("Where the result goes.", required=True, rules=rules.TUNING_OUTPUT)
    ] = None
    on_success: Annotated[
        OnSuccess | None, field("Serve the result on the same nodes, or release them; absent: Serve.")
    ] = None


class PerformanceMetric(Wire, frozen=True, kw_only=True):
    description: str = ""
    value: str = ""
    unit: str = ""
    config: Mapping[str, str] = {}


class Performance(Wire, frozen=True, kw_only=True):
    metrics: Mapping[str, PerformanceMetric] = {}


class PlanStatus(Wire, frozen=True, kw_only=True):
    """What was decided, once; sizes in GiB, context in tokens."""

    instance_type: str = ""
    nodes: int = 0
    gpus_per_node: int = 0
    tensor_parallel_size: int = 0
    pipeline_parallel_size: int = 0
    context_tokens: int = 0
    disk_gib: Annotated[int, field("Size of each node's OS disk in GiB.")] = msgspec.field(name="diskGiB", default=0)


class ModelStatus(Wire, frozen=True, kw_only=True):
    id: str = ""
    revision: str = ""


class Artifact(Wire, frozen=True, kw_only=True):
    ref: str = ""
    digest: str = ""


class TuningStatus(Wire, frozen=True, kw_only=True):
    step: int = 0
    total_steps: int = 0
    loss: Annotated[str, field("Training loss at that step, as text.")] = ""
    eta: Annotated[str, field("Time to the end of training, such as 12m30s.")] = ""
    checkpoint: Annotated[int, field("Step of the last checkpoint.")] = 0
    artifact: Artifact | None = None
    inputs: Annotated[str, field("Hash of what the artifact was made from: other inputs begin a new training.")] = ""


class WorkspaceStatus(Wire, frozen=True, kw_only=True):
    conditions: tuple[Condition, ...] = ()
    worker_nodes: Annotated[tuple[str, ...], field("Nodes that the workload may run on, sorted.")] = ()
    state: Annotated[str, field("Summary in one word.", enum=[state.value for state in State])] = ""
    target_node_count: Annotated[int, field("Number of nodes that the plan asks for.", format="int32")] = 0
    performance: Performance | None = None
    endpoint: Annotated[str, field("URL of the inference service inside the cluster.")] = ""
    plan: PlanStatus | None = None
    model: ModelStatus | None = None
    tuning: TuningStatus | None = None


class Workspace(Object, frozen=True, kw_only=True):
    """A model served, or tuned and then served, on nodes of its own."""

    resource: Annotated[ResourceSpec, field("Nodes for the workload.", required=True, rules=rules.RESOURCE)] = (
        ResourceSpec()
    )
    inference: Annotated[InferenceSpec | None, field("Serve a model.", rules=rules.INFERENCE)] = None
    tuning: Annotated[TuningSpec | None, field("Tune a model.", rules=rules.TUNING)] = None
    status: WorkspaceStatus = WorkspaceStatus()


WORKSPACES = Resource(Workspace, GROUP, "v1beta1", "workspaces", "Workspace")
