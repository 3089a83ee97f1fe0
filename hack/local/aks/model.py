"""The shapes of the emulated world: cluster, agent pools, machines, operations, faults and settings. Data only; all of it is persisted.

Times are seconds since the epoch. Nothing here changes anything: `cloud` moves these values from state to state.
"""

from typing import Any, Literal

import msgspec

from hack.local.aks.errors import ErrorDetail, Shape

Kind = Literal["PUT", "DELETE", "GET", "LIST", "CLUSTER", "OPERATION", "*"]
PoolState = Literal["Creating", "Updating", "Deleting", "Succeeded", "Failed"]
MachinePhase = Literal["Booting", "Ready", "Leaving"]
OperationStatus = Literal["InProgress", "Succeeded", "Failed", "Canceled"]


class Identity(msgspec.Struct, frozen=True, rename="camel"):
    """Which managed cluster this is. Compared without case, as Resource Manager does."""

    subscription: str = "00000000-0000-0000-0000-000000000001"
    resource_group: str = "box"
    cluster: str = "box"
    location: str = "eastus"
    node_group: str = ""

    @property
    def node_resource_group(self) -> str:
        """The group that holds the machines: AKS makes it and names it so where no name is given."""
        return self.node_group or f"MC_{self.resource_group}_{self.cluster}_{self.location}"

    @property
    def path(self) -> str:
        """The resource id of the managed cluster."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.ContainerService/managedClusters/{self.cluster}"
        )


class Settings(msgspec.Struct, frozen=True, rename="camel"):
    """How the emulated service behaves while no fault is injected. Changed at run time with PATCH /admin/settings."""

    create_seconds: float = 0.2  # accepted → machines allocated
    update_seconds: float = 0.1
    delete_seconds: float = 0.2
    power_seconds: float = 0.1  # stop and start of the cluster
    retry_after: int = 1  # hint on operations in progress; 0 sends none
    page_size: int = 100
    list_lag_seconds: float = 0.0  # LIST shows the world as it was that long ago
    honour_preconditions: bool = True  # False: If-Match and If-None-Match are ignored
    parallel: bool = True  # False: a second operation on the cluster is answered with 409
    throttle: bool = True
    token: str = ""  # bearer token to insist on; "" takes anything and nothing
    gpu_delay_seconds: float = 0.0  # node there → its GPUs allocatable
    boots: bool = False  # set by the process: real machines follow the pools, and a create waits for their nodes


class Machine(msgspec.Struct, frozen=True, rename="camel"):
    """One virtual machine of a pool's scale set. Present until it is known to be stopped."""

    instance: int
    phase: MachinePhase = "Booting"


class Pool(msgspec.Struct, frozen=True, rename="camel"):
    """One agent pool.

    `operation` is "" iff `state` is Succeeded or Failed. `due_at` is when the clock's part of the
    operation ends, None once it has ended (machines may take longer). A machine is kept until it is known to be stopped.
    """

    name: str
    properties: dict[str, Any]  # as PUT, with the server's defaults; read-only ones are added on the way out
    state: PoolState
    etag: str
    scale_set: str  # aks-<pool>-<8 digits>-vmss
    created_at: float
    operation: str = ""
    due_at: float | None = None
    ends_in: ErrorDetail | None = None  # what the running operation will fail with
    error: ErrorDetail | None = None  # status.provisioningError
    machines: tuple[Machine, ...] = ()
    next_instance: int = 0
    surplus: int = 0  # machines above the count that a create also allocates
    joins: bool = True  # False: its machines never become nodes
    gpu_delay_seconds: float = 0.0


class Operation(msgspec.Struct, frozen=True, rename="camel"):
    """A long-running operation, kept after its end."""

    id: str
    pool: str
    kind: Kind
    started_at: float
    status: OperationStatus = "InProgress"
    ended_at: float = 0.0
    error: ErrorDetail | None = None


class Cluster(msgspec.Struct, frozen=True, rename="camel"):
    """The managed cluster's own state."""

    power: Literal["Running", "Stopped"] = "Running"
    state: str = "Succeeded"
    due_at: float = 0.0  # when Starting or Stopping ends


class Fault(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One thing that shall go wrong. README of the admin endpoint: `admin`.

    Consumed by the next `times` requests (for `fail`, `slow`, `extra-node`, `no-join`, `gpu-delay`: by the next accepted PUTs or DELETEs)
    of kind `on` whose pool name matches the shell pattern `pool`. times=0 means until it is cleared.
    """

    kind: Literal["refuse", "fail", "drop", "stall", "slow", "extra-node", "no-join", "gpu-delay"]
    on: Kind = "PUT"
    pool: str = "*"
    times: int = 1
    id: int = 0
    error: str = ""  # refuse, fail: name in the catalogue of `errors`
    code: str = ""  # refuse, fail: an error of one's own instead of a catalogued one
    message: str = ""
    status: int = 0  # refuse, with `code`
    shape: Shape = "flat"
    retry_after: int | None = None
    after: bool = False  # drop: after the change was made (else before)
    seconds: float = 0.0  # stall, slow, gpu-delay


class World(msgspec.Struct, frozen=True, rename="camel"):
    """Everything that outlives the process."""

    cluster: Cluster = Cluster()
    pools: dict[str, Pool] = {}
    operations: dict[str, Operation] = {}
    faults: tuple[Fault, ...] = ()
    settings: Settings = Settings()
    serial: int = 0  # of the last operation, ETag or fault; never reused
