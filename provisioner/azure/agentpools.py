"""Agent pools of one AKS cluster, as a `CloudProvider`: one request per call, no retry, no waiting for operations.

Retries belong to whoever knows the state of the claim; here each request is counted, kept within the budget, guarded by the
lease, and its answer translated. Preconditions make every mutation safe to lose: PUT creates only (`If-None-Match: *`),
DELETE names the version that was looked at (`If-Match`).
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline.policies import (
    AsyncRetryPolicy,
    ContentDecodePolicy,
    CustomHookPolicy,
    HeadersPolicy,
    RequestIdPolicy,
    UserAgentPolicy,
)
from azure.core.pipeline.transport import AioHttpTransport
from azure.mgmt.containerservice.aio import ContainerServiceClient

from kube.clock import Clock
from kube.errors import NotLeading
from provisioner import metrics
from provisioner.azure import auth, errors, render
from provisioner.azure.budget import Budget
from provisioner.cloud import Cluster, ClusterMissing, ClusterNotRunning, Instance, Launch, Throttled
from provisioner.settings import Settings

R = TypeVar("R")
CLUSTER_AGE = 10.0  # seconds for which the state of the cluster is taken from memory: 0.1 reads/s at most
CONNECT_SECONDS, READ_SECONDS = 10, 60
# What a request is for, in messages.
SUBJECTS = {
    **dict.fromkeys(("PUT", "DELETE", "GET"), "agent pool {}"),
    "LIST": "the list of agent pools",
    "CLUSTER": "the managed cluster",
}
# States in which AKS refuses, or worse half does, what is asked of a pool.
MOVING = {"starting", "stopping", "deleting", "creating"}


class AgentPools:
    """The machines of one cluster. Made by `connect`, which owns the connections."""

    def __init__(
        self, client: ContainerServiceClient, settings: Settings, clock: Clock, may_write: Callable[[], bool]
    ) -> None:
        self._client, self._clock, self._may_write = client, clock, may_write
        self._scope = (settings.resource_group, settings.cluster_name)
        self._location = settings.location
        self._budget = Budget(clock)
        self._cluster: tuple[float, Cluster] | None = None
        self._asking: asyncio.Task[Cluster] | None = None

    async def create(self, launch: Launch) -> Instance:
        name, uid = launch.claim.metadata.name, launch.claim.metadata.uid
        body = render.agent_pool(launch)
        async with self._budget.put(name):
            self._check_lease()
            poller = await self._send(
                "PUT",
                name,
                lambda: self._client.agent_pools.begin_create_or_update(
                    *self._scope,
                    name,
                    body,
                    match_condition=MatchConditions.IfMissing,
                    polling=False,
                    # Azure support finds everything that was done for one claim by this id.
                    headers={"x-ms-correlation-request-id": uid},
                ),
            )
        return self._instance(await poller.result())

    async def delete(self, instance: Instance) -> None:
        match: dict[str, Any] = {}
        if instance.etag:  # absent below API version 2024-10
            match = {"etag": instance.etag, "match_condition": MatchConditions.IfNotModified}
        async with self._budget.delete():
            self._check_lease()
            await self._send(
                "DELETE",
                instance.name,
                lambda: self._client.agent_pools.begin_delete(
                    *self._scope, instance.name, ignore_pod_disruption_budget=True, polling=False, **match
                ),
                absent=None,
            )

    async def get(self, name: str) -> Instance | None:
        await self._locate()
        await self._budget.read()
        found = await self._send("GET", name, lambda: self._client.agent_pools.get(*self._scope, name), absent=None)
        if found is not None:
            return self._instance(found)
        cluster = await self.cluster()
        if not cluster.exists:  # "no such pool" and "no such cluster" are both 404
            raise ClusterMissing(cluster.detail)
        return None

    async def list(self) -> tuple[Instance, ...]:
        await self._locate()
        await self._budget.read(background=True)

        async def collect() -> list[Any]:
            return [pool async for pool in self._client.agent_pools.list(*self._scope)]

        return tuple(self._instance(pool) for pool in await self._send("LIST", "", collect))

    async def cluster(self) -> Cluster:
        """Learned CLUSTER_AGE ago at most. Callers at the same time share one request."""
        if self._cluster is not None and self._clock.monotonic() - self._cluster[0] < CLUSTER_AGE:
            return self._cluster[1]
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_for_cluster())
        return await asyncio.shield(self._asking)

    async def _ask_for_cluster(self) -> Cluster:
        await self._budget.read_cluster()
        found = await self._send("CLUSTER", "", lambda: self._client.managed_clusters.get(*self._scope), absent=None)
        cluster = self._read_cluster(found.as_dict() if found is not None else None)
        self._cluster = (self._clock.monotonic(), cluster)
        return cluster

    async def close(self) -> None:
        """Leave no request under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))

    async def _locate(self) -> None:
        """Zones are numbers in a pool and have the region before them on a node, so the region must be known."""
        if not self._location:
            await self.cluster()

    def _read_cluster(self, body: Mapping[str, Any] | None) -> Cluster:
        if body is None:
            return Cluster(running=False, exists=False, detail=f"managed cluster {self._scope[1]} does not exist")
        properties = body.get("properties") or {}
        power = (properties.get("powerState") or {}).get("code") or "Running"
        state = properties.get("provisioningState") or "Succeeded"
        self._location = self._location or str(body.get("location") or "")
        return Cluster(
            running=power == "Running" and state.lower() not in MOVING,
            detail=f"managed cluster {self._scope[1]} is {power} (provisioning state {state})",
        )

    def _instance(self, pool: Any) -> Instance:
        return render.instance(pool.as_dict(), location=self._location)

    def _check_lease(self) -> None:
        if not self._may_write():
            raise NotLeading("the lease may be somebody else's: nothing was sent to Azure")

    async def _send(self, verb: str, name: str, request: Callable[[], Awaitable[R]], *, absent: Any = ...) -> R:
        """Send, count and translate. With `absent`, a 404 returns that instead of raising."""
        try:
            with metrics.cloud_request(verb, self._clock):
                answer = await request()
        except HttpResponseError as error:
            metrics.arm_requests.labels(verb, str(error.status_code or 0)).inc()
            if error.status_code == 404 and absent is not ...:
                return absent  # type: ignore[no-any-return]  # the caller's own value
            raise self._translated(error, verb, name) from error
        except AzureError as error:
            metrics.arm_requests.labels(verb, "0").inc()
            raise self._translated(error, verb, name) from error
        metrics.arm_requests.labels(verb, "200").inc()
        return answer

    def _translated(self, error: AzureError, verb: str, name: str) -> Exception:
        ours = errors.translate(error, subject=SUBJECTS[verb].format(name), creating=verb == "PUT")
        metrics.cloud_error(verb, ours.reason)
        if isinstance(ours, ClusterNotRunning):
            self._cluster = None  # what we remember is out of date
        if isinstance(ours, Throttled):
            metrics.arm_throttled.inc()
            self._budget.pause(ours.retry_after or 30.0)
        return ours


@asynccontextmanager
async def connect(
    settings: Settings, *, clock: Clock, may_write: Callable[[], bool] = lambda: True
) -> AsyncIterator[AgentPools]:
    """Open the connections to ARM and, where one is used, to the identity provider."""
    context = ssl.create_default_context()
    if settings.ca_bundle:
        context.load_verify_locations(settings.ca_bundle)
    connector = aiohttp.TCPConnector(ssl=context)
    async with (
        aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
        auth.credential(settings, AioHttpTransport(session=session, session_owner=False)) as credential,
    ):
        # aiohttp re-sends PUT and DELETE by itself when a connection dies; that would hide what we must know.
        session._retry_connection = False
        client = ContainerServiceClient(
            credential,
            settings.subscription_id,
            base_url=settings.arm_endpoint,
            policies=_policies(settings, auth.policy(settings, credential)),
            transport=AioHttpTransport(session=session, session_owner=False),
            **({"api_version": settings.arm_api_version} if settings.arm_api_version else {}),
        )
        async with client:
            pools = AgentPools(client, settings, clock, may_write)
            try:
                yield pools
            finally:
                await pools.close()


def _policies(settings: Settings, authentication: Any) -> list[Any]:
    """The SDK's pipeline without its retries, and without the policy that registers resource providers on its own."""
    timeouts = {"connection_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
    return [
        RequestIdPolicy(),
        HeadersPolicy(),
        UserAgentPolicy(settings.NAME),
        ContentDecodePolicy(),
        AsyncRetryPolicy(retry_total=0, **timeouts),
        authentication,
        CustomHookPolicy(),
    ]
