"""The closed list of reasons on a Workspace's conditions, each with its next step. The docs page is generated from it.

KAITO's reasons keep their spelling. A NodeClaim's reasons are shown as its provisioner wrote them and are not listed here.
The last group repeats `runtime.contract.Reason`, which this package may not import; a test holds the two together.
"""

import enum


class Reason(enum.StrEnum):
    """A value is what the user reads in the REASON column; `next_step` is the sentence of the docs page."""

    next_step: str

    def __new__(cls, value: str, next_step: str) -> "Reason":
        member = str.__new__(cls, value)
        member._value_ = value
        member.next_step = next_step
        return member

    # The root
    SUCCEEDED = "workspaceSucceeded", "Nothing: the model answers at `status.endpoint`."
    PENDING = "workspacePending", "Wait; the other conditions say what for."
    FAILED = "workspaceFailed", "Read the condition that is False and do what its message says."
    TUNING = "Tuning", "Wait; `status.tuning` shows the step, the loss and the time left."
    DELETING = "Deleting", "Wait; the message names what is still being removed."
    DELETED = "workspaceDeleted", "Wait; the message names what is still being removed."

    # The plan, before anything is paid for
    PLAN_FAILED = (
        "PlanFailed",
        "Choose one of the instance types in the message, or a shorter context; it shows the bytes needed.",
    )
    INSTANCE_TYPE_UNKNOWN = "InstanceTypeUnknown", "Correct `resource.instanceType`; the message has the nearest names."
    INSTANCE_TYPE_UNSUPPORTED = (
        "InstanceTypeUnsupported",
        "Choose the instance type in the message: this one's GPU cannot run the runtime.",
    )
    PRESET_UNKNOWN = (
        "PresetUnknown",
        "Correct the preset's name; the message has the nearest names. The hub id of a preset is accepted too.",
    )
    PRESET_RETIRED = "PresetRetired", "Use the successor in the message."
    MODEL_UNRESOLVED = (
        "ModelUnresolved",
        "Choose a model of the catalogue; the message has the nearest names. Hub ids outside it are not supported yet.",
    )
    MODEL_ACCESS_REQUIRED = (
        "ModelAccessRequired",
        "Accept the model's licence on the hub and name a Secret with HF_TOKEN in `presetOptions.modelAccessSecret`.",
    )
    CONFIG_MAP_MISSING = "ConfigMapMissing", "Create the ConfigMap that the message names; it is noticed at once."
    NO_MATCHING_NODES = "NoMatchingNodes", "Label nodes as `resource.labelSelector` asks, or correct the selector."
    NODES_NOT_UNIFORM = "NodesNotUniform", "Narrow `resource.labelSelector` to nodes with the same GPUs."

    # Nodes
    RESOURCES_READY = "workspaceResourceStatusSuccess", "Nothing: all nodes are ready with their GPUs."
    RESOURCES_NOT_READY = "workspaceResourceStatusNotReady", "Wait; the message says which node is awaited."
    NODES_READY = "NodesReady", "Nothing: all nodes are ready."
    NODE_NOT_READY = "NodeNotReady", "Wait; if it lasts, look at the node with `kubectl describe node`."
    NODE_PLUGINS_NOT_READY = (
        "NodePluginsNotReady",
        "Wait for the GPU device plugin; if it lasts, check that it is installed and tolerates the node's taints.",
    )
    NODE_CLAIMS_READY = "NodeClaimsReady", "Nothing: all NodeClaims are ready."
    NODE_CLAIM_NOT_READY = "NodeClaimNotReady", "Wait; `kubectl describe nodeclaim` shows the progress."
    NODE_CLAIM_REJECTED = (
        "NodeClaimRejected",
        "The API server refused the NodeClaim; the message has its words. It is tried again.",
    )
    NODE_CLAIM_CRD_MISSING = (
        "NodeClaimCrdMissing",
        "Install the NodeClaim CRD and a provisioner, or run the controller with `--node-provisioner=byo`.",
    )
    PROVISIONING_TIMED_OUT = (
        "ProvisioningTimedOut",
        "Choose other instance types or zones, or raise `resource.provisioning.timeout`.",
    )
    RELEASED = "Released", "Nothing: the nodes were given back after tuning."

    # Tuning
    JOB_STARTED = "WorkspaceTuningJobStatusStarted", "Nothing: training has begun."
    JOB_PENDING = "WorkspaceTuningJobStatusPending", "Wait; the message says what the Job waits for."
    JOB_FAILED = (
        "WorkspaceTuningJobStatusFailed",
        "Read the message; after correcting the Workspace the training starts anew.",
    )
    TUNED = "Tuned", "Nothing: the result was pushed; `status.tuning.artifact` has its digest."

    # Serving, and the pods of both
    INFERENCE_READY = "WorkspaceInferenceStatusSuccess", "Nothing: the model answers."
    INFERENCE_PENDING = "WorkspaceInferenceStatusPending", "Wait; the message says what the pods are doing."
    OOM_KILLED = (
        "ContainerOOMKilled",
        "The container needed more memory than the node had: choose a larger instance type.",
    )
    IMAGE_PULL_ERROR = (
        "ImagePullError",
        "Check the image's name and its pull secret; the message has the registry's words.",
    )
    CONTAINER_START_ERROR = (
        "ContainerStartError",
        "Read the message; most often a volume, a ConfigMap or a command does not exist.",
    )
    CRASH_LOOP = "ContainerCrashLoopBackOff", "Read the pod's log: `kubectl logs --previous`."
    POD_EVICTED = "PodEvicted", "A new pod is made; if it repeats, choose a larger instance type."
    NODE_DISK_PRESSURE = (
        "NodeDiskPressure",
        "The node's disk is full: remove what else runs there, or choose a larger instance type.",
    )
    NODE_MEMORY_PRESSURE = (
        "NodeMemoryPressure",
        "The node's memory is short: remove what else runs there, or choose a larger instance type.",
    )
    UNSCHEDULABLE = (
        "Unschedulable",
        "The message has the scheduler's words; most often a selector or a taint does not match.",
    )
    NAME_CONFLICT = "NameConflict", "Another object of this name exists and is not ours: rename it or the Workspace."

    # What the programs in the pods report (runtime.contract.Reason)
    CONFIG_INVALID = "ConfigInvalid", "Correct the ConfigMap's key that the message names; it is noticed at once."
    DATASET_INVALID = (
        "DatasetInvalid",
        "Correct the data: the message names the file, the row and the columns that are expected.",
    )
    DATA_UNREACHABLE = "DataUnreachable", "Check the URL in the message; it is tried again."
    DATA_FORBIDDEN = (
        "DataAddressForbidden",
        "The URL leads to a private address: use a public one, or allow the range with `--allowed-address-ranges`.",
    )
    WEIGHTS_UNREACHABLE = (
        "WeightsUnreachable",
        "Check that nodes can reach the registry or hub in the message; it is tried again.",
    )
    ADAPTER_UNREACHABLE = "AdapterUnreachable", "Check the adapter's image and its pull secret; it is tried again."
    ADAPTER_INVALID = (
        "AdapterInvalid",
        "The adapter does not fit the model: use one that was tuned from the same preset.",
    )
    PULL_UNAUTHORIZED = "PullUnauthorized", "The registry refused the credentials: correct the Secret in the message."
    SECRET_MISSING = (
        "SecretMissing",
        "Create the Secret that the message names, with the key that it names, in the Workspace's namespace.",
    )
    MODEL_UNSUPPORTED = (
        "ModelUnsupported",
        "The runtime cannot load this model: choose another, or, if its authors ask for it, set `trust-remote-code` in"
        " inference_config.yaml, below `vllm`, or `ModelConfig.trust_remote_code` in training_config.yaml.",
    )
    ACCELERATOR_MISSING = (
        "AcceleratorMissing",
        "No GPU is usable in the pod: check the device plugin and the driver of the node in the message.",
    )
    OUT_OF_MEMORY = "GpuOutOfMemory", "Lower the context length or the batch size, or choose a larger instance type."
    ENGINE_FAILED = (
        "EngineFailed",
        "Read the message and the pod's log; most often an engine option does not fit the model.",
    )
    TRAINER_FAILED = (
        "TrainerFailed",
        "Read the message and the pod's log; correct the training options and the training starts anew.",
    )
    PUSH_UNAUTHORIZED = (
        "PushUnauthorized",
        "The registry refused the credentials of `output.imagePushSecret`: correct the Secret.",
    )
    PUSH_DENIED = (
        "PushDenied",
        "The account may not push to this repository: grant it, or choose another `output.image`.",
    )
    REGISTRY_UNAVAILABLE = (
        "RegistryUnavailable",
        "Check that nodes can reach the registry in the message; the push is tried again.",
    )
    PREEMPTED = "Preempted", "Nothing: training resumes from its checkpoint on the next node."
    LOSS_NOT_FINITE = "LossNotFinite", "The training diverged: lower the learning rate and check the data."
    INTERNAL = "InternalError", "Please report it, with the pod's log."
