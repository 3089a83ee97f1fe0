"""What the controller and the programs in GPU pods agree on: paths, ports, environment, plans, phases, exit codes, reports.

The one module of `runtime` that the control plane needs, therefore standard library only and free of behaviour beyond
encoding. (Which options a user's ConfigMap may name stands as data in `engine/options.json` and `training/options.json`.) The controller renders pods from it and reads pods by it; the programs start from it and report by it.
Both sides may be of different releases (a controller upgrade restarts no model), so decoding ignores unknown keys and
every new field has a default.
"""

import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

VERSION = 1

# Ports. 5000 is KAITO's inference port, 29500 torch's rendezvous port; the Service shows 80 → 5000 and 29500.
API_PORT = 5000
STATUS_PORT = 5002
MASTER_PORT = 29500

# Mounts. The first five are KAITO's, so that its ConfigMaps and images work unchanged.
WEIGHTS_DIR = "/workspace/weights"
CONFIG_DIR = "/mnt/config"
ADAPTER_DIR = "/mnt/adapter"  # one folder per adapter name
DATA_DIR = "/mnt/data"
RESULTS_DIR = "/mnt/results"
SECRETS_DIR = "/var/run/secrets/kaito.sh"  # one folder per Secret name; a missing Secret is an empty or absent folder
CACHE_DIR = "/var/cache/runtime"  # compiled kernels, hub cache; may be lost
CA_BUNDLE = "/etc/ssl/kaito/ca-bundle.crt"
TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LIMIT = 4096  # bytes; the kubelet cuts what is longer

INFERENCE_CONFIG = "inference_config.yaml"  # keys of KAITO's ConfigMaps
TRAINING_CONFIG = "training_config.yaml"
TUNING_SENTINEL = "fine_tuning_completed.txt"  # KAITO's, written into RESULTS_DIR
DOCKER_CONFIG_KEY = ".dockerconfigjson"  # in a kubernetes.io/dockerconfigjson Secret
HUB_TOKEN_KEY = "HF_TOKEN"  # in the Secret that `modelAccessSecret` names

# Where an image keeps its files: KAITO's adapter images have them under /data, its preset images under /workspace/weights.
IMAGE_DATA_DIR = "data"
IMAGE_WEIGHTS_DIR = "workspace/weights"

# Environment. A plan is one JSON document; everything else is small and the same for all programs.
PLAN_ENV = "RUNTIME_PLAN"
WORKSPACE_ENV = "WORKSPACE_NAME"
NAMESPACE_ENV = "WORKSPACE_NAMESPACE"
POD_UID_ENV = "POD_UID"
POD_INDEX_ENV = "POD_INDEX"  # KAITO's name for the rank of this pod's node
ALLOWED_RANGES_ENV = (
    "ALLOWED_ADDRESS_RANGES"  # comma-separated CIDRs that data URLs may reach although they are private
)
GRACE_ENV = "TERMINATION_GRACE_SECONDS"


class Accelerator(enum.StrEnum):
    CUDA = "cuda"
    CPU = "cpu"


class ExitCode(enum.IntEnum):
    """Why a program ended; after sysexits.h where a code exists there. The Job's podFailurePolicy is rendered from it."""

    OK = 0
    CONFIG_INVALID = 64
    DATA_INVALID = 65
    INPUT_MISSING = 66  # weights, adapter, data set or their Secret; retried, since a Secret or server may be mended
    MODEL_UNSUPPORTED = 67
    ACCELERATOR_MISSING = 69  # `cuda` was asked for and no usable GPU is there
    INTERNAL = 70
    OUT_OF_MEMORY = 71
    PUSH_FAILED = 73
    PREEMPTED = 75  # SIGTERM; a checkpoint was saved, the next pod resumes
    LOSS_NOT_FINITE = 76


# Another pod would end the same way: the Job fails at once.
FINAL_EXITS = (
    ExitCode.CONFIG_INVALID,
    ExitCode.DATA_INVALID,
    ExitCode.MODEL_UNSUPPORTED,
    ExitCode.ACCELERATOR_MISSING,
    ExitCode.OUT_OF_MEMORY,
    ExitCode.PUSH_FAILED,
    ExitCode.LOSS_NOT_FINITE,
)
# Says nothing about the work: does not count against backoffLimit.
IGNORED_EXITS = (ExitCode.PREEMPTED,)


class Reason(enum.StrEnum):
    """Machine-readable causes in reports and in `/status` warnings. They become condition reasons unchanged."""

    CONFIG_INVALID = "ConfigInvalid"
    DATASET_INVALID = "DatasetInvalid"
    DATA_UNREACHABLE = "DataUnreachable"
    DATA_FORBIDDEN = "DataAddressForbidden"  # a private address behind a data URL
    WEIGHTS_UNREACHABLE = "WeightsUnreachable"
    ADAPTER_UNREACHABLE = "AdapterUnreachable"
    ADAPTER_INVALID = "AdapterInvalid"
    PULL_UNAUTHORIZED = "PullUnauthorized"
    SECRET_MISSING = "SecretMissing"  # named in the Workspace, absent from the namespace or without the expected key
    MODEL_UNSUPPORTED = "ModelUnsupported"
    ACCELERATOR_MISSING = "AcceleratorMissing"
    OUT_OF_MEMORY = "GpuOutOfMemory"
    ENGINE_FAILED = "EngineFailed"
    TRAINER_FAILED = "TrainerFailed"
    PUSH_UNAUTHORIZED = "PushUnauthorized"
    PUSH_DENIED = "PushDenied"
    REGISTRY_UNAVAILABLE = "RegistryUnavailable"
    PREEMPTED = "Preempted"
    LOSS_NOT_FINITE = "LossNotFinite"
    INTERNAL = "InternalError"


class Phase(enum.StrEnum):
    """What a program is doing, in order. `Fetching` is an init container's; the rest is the main container's."""

    FETCHING = "Fetching"
    VALIDATING = "Validating"
    LOADING = "Loading"
    COMPILING = "Compiling"
    LOADING_ADAPTERS = "LoadingAdapters"
    READY = "Ready"
    DRAINING = "Draining"
    TOKENISING = "Tokenising"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    EXPORTING = "Exporting"
    PUSHING = "Pushing"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclasses.dataclass(frozen=True)
class Adapter:
    """One LoRA adapter to serve. Its files lie in ADAPTER_DIR/<name>."""

    name: str
    strength: float = 1.0


@dataclasses.dataclass(frozen=True)
class ServePlan:
    """What `runtime.serve` runs. Engine options carry vLLM's own names and JSON types; a user's config wins over them."""

    model: str  # hub id or preset name; what /v1/models shows
    accelerator: str = Accelerator.CUDA
    dtype: str = "auto"
    max_model_len: int = 0  # tokens; 0 = what the model allows
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    nodes: int = 1
    leader_address: str = ""  # of the pod with rank 0, where nodes > 1
    engine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    adapters: tuple[Adapter, ...] = ()
    chat_adapter: str = ""  # the adapter that POST /chat speaks with; "" = the base model
    trust_remote_code: bool = False


@dataclasses.dataclass(frozen=True)
class TunePlan:
    """What `runtime.tune` runs."""

    model: str  # hub id, written into adapter_config.json as base_model_name_or_path
    revision: str = ""
    method: str = "lora"  # lora | qlora
    accelerator: str = Accelerator.CUDA
    micro_batch: int = 0  # rows per device and step; 0 = on a GPU all of an optimiser step, on a CPU by their length
    max_length: int = 0  # tokens; 0 = from the data and the model
    output_image: str = ""  # repository:tag; empty where the result stays in RESULTS_DIR (a mounted volume)
    push_secret: str = ""  # folder name under SECRETS_DIR
    trust_remote_code: bool = False


@dataclasses.dataclass(frozen=True)
class Artifact:
    """What was pushed. Pull it as `<repository of ref>@<digest>`."""

    ref: str = ""  # repository:tag, as the Workspace has it
    digest: str = ""  # sha256:…


@dataclasses.dataclass(frozen=True)
class Warning_:  # `Warning` is a builtin
    code: str
    message: str


@dataclasses.dataclass(frozen=True)
class Status:
    """`GET :5002/status`: what is happening now. Also the body of the termination report, with `exit` set."""

    v: int = VERSION
    phase: str = Phase.FETCHING
    exit: int | None = None
    reason: str = ""
    message: str = ""
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    checkpoint_step: int | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_per_second: float | None = None
    artifact: Artifact | None = None
    adapters: tuple[str, ...] = ()  # loaded and answering
    warnings: tuple[Warning_, ...] = ()


Document = TypeVar("Document")


def encode(document: object) -> str:
    """Encode a plan or a status as compact JSON, without fields at their default."""
    return json.dumps(_compact(document), separators=(",", ":"))


def encode_report(status: Status) -> str:
    """Encode a termination report of at most TERMINATION_LIMIT bytes: the message is cut, never the code or the reason."""
    text = encode(status)
    if len(text.encode()) <= TERMINATION_LIMIT:
        return text
    status = dataclasses.replace(status, warnings=())
    message = status.message
    while len((text := encode(dataclasses.replace(status, message=message))).encode()) > TERMINATION_LIMIT:
        message = message[: len(message) * 3 // 4]
    return text


def decode(document_type: type[Document], text: str | bytes) -> Document:
    """Decode JSON into a plan or a status. Raises ValueError when it is not a JSON object of that shape."""
    loaded = json.loads(text)
    if not isinstance(loaded, dict):
        raise ValueError(f"expected a JSON object, got {type(loaded).__name__}")
    try:
        document: Document = _build(document_type, loaded)
    except TypeError as error:
        raise ValueError(str(error)) from error
    return document


def _compact(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: _compact(getattr(value, f.name)) for f in fields if f.name == "v" or not _is_default(value, f)}
    if isinstance(value, tuple | list):
        return [_compact(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _compact(item) for key, item in value.items()}
    return value


def _is_default(owner: object, field: "dataclasses.Field[Any]") -> bool:
    value = getattr(owner, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return field.default is not dataclasses.MISSING and bool(value == field.default)


def _build(kind: Any, value: Any) -> Any:
    """Turn decoded JSON into `kind`: a dataclass, a tuple of them, an optional one, or a plain value."""
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        return kind(**{name: _build(hints[name], item) for name, item in value.items() if name in hints})  # type: ignore[operator]  # kind is a class here
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_build(get_args(kind)[0], item) for item in value)
    inner = [option for option in get_args(kind) if dataclasses.is_dataclass(option)]
    return _build(inner[0], value) if inner and value is not None and get_origin(kind) is not tuple else value
