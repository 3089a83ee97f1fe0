"""Agent pools of one AKS cluster, as a `CloudProvider`: one request per call, no retry, no waiting for operations.

Retries belong to whoever knows the state of the claim; here each request is counted, kept within the budget, guarded by the
lease, and its answer translated. Preconditions make every mutation safe to lose: PUT creates only (`If-None-Match: *`),
DELETE names the version that was looked at (`If-Match`).
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar, overload

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
from provisioner.cloud import Cluster, ClusterMissing, ClusterNotRunning, Instance, Launch, Throttled, UnknownOutcome
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

        async def put() -> Instance:
            poller = await self._client.agent_pools.begin_create_or_update(
                *self._scope,
                name,
                body,
                match_condition=MatchConditions.IfMissing,
                polling=False,
                # Azure support finds everything that was done for one claim by this id.
                headers={"x-ms-correlation-request-id": uid},
            )
            return self._instance(await poller.result())

        async with self._budget.put(name):
            self._check_lease()
            return await self._send("PUT", name, put)

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
                absent=True,
            )

    async def get(self, name: str) -> Instance | None:
        await self._locate()
        await self._budget.read()

        async def look() -> Instance:
            return self._instance(await self._client.agent_pools.get(*self._scope, name))

        found = await self._send("GET", name, look, absent=True)
        if found is None and not (cluster := await self.cluster()).exists:
            raise ClusterMissing(cluster.detail)
        return found

    async def list(self) -> tuple[Instance, ...]:
        await self._locate()
        await self._budget.read(background=True)

        async def collect() -> tuple[Instance, ...]:
            return tuple([self._instance(pool) async for pool in self._client.agent_pools.list(*self._scope)])

        return await self._send("LIST", "", collect)

    async def cluster(self) -> Cluster:
        """Learned CLUSTER_AGE ago at most. Callers at the same time share one request."""
        if self._cluster is not None and self._clock.monotonic() - self._cluster[0] < CLUSTER_AGE:
            return self._cluster[1]
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_for_cluster())
        return await asyncio.shield(self._asking)

    async def _ask_for_cluster(self) -> Cluster:
        await self._budget.read_cluster()

        async def look() -> Cluster:
            return self._read_cluster((await self._client.managed_clusters.get(*self._scope)).as_dict())

        try:
            cluster = await self._send("CLUSTER", "", look)
        except ClusterMissing as error:
            cluster = Cluster(running=False, exists=False, detail=str(error))
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

    def _read_cluster(self, body: Mapping[str, Any]) -> Cluster:
        properties = body["properties"]
        power = (properties.get("powerState") or {}).get("code") or "Running"
        state = properties.get("provisioningState") or "Succeeded"
        self._location = self._location or str(body.get("location") or "")
        return Cluster(
            running=power == "Running" and state.lower() not in MOVING,
            detail=f"managed cluster {self._scope[1]} is {power} (provisioning state {state})",
        )

    def _instance(self, pool: Any) -> Instance:
        found = render.instance(pool.as_dict(), location=self._location)
        if not found.name:
            raise ValueError("an agent pool without a name")
        return found

    def _check_lease(self) -> None:
        if not self._may_write():
            raise NotLeading("the lease may be somebody else's: nothing was sent to Azure")

    @overload
    async def _send(self, verb: str, name: str, request: Callable[[], Awaitable[R]]) -> R: ...
    @overload
    async def _send(self, verb: str, name: str, request: Callable[[], Awaitable[R]], *, absent: bool) -> R | None: ...
    async def _send(
        self, verb: str, name: str, request: Callable[[], Awaitable[R]], *, absent: bool = False
    ) -> R | None:
        """Send, count and translate. With `absent`, None when Azure says that there is no such agent pool."""
        try:
            with metrics.cloud_request(verb, self._clock):
                answer = await request()
        except HttpResponseError as error:
            metrics.arm_requests.labels(verb, str(error.status_code or 0)).inc()
            if absent and errors.absent(error):
                return None
            raise self._translated(error, verb, name) from error
        except AzureError as error:
            metrics.arm_requests.labels(verb, "0").inc()
            raise self._translated(error, verb, name) from error
        except (
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:  # a 200 whose body is not what was asked for
            metrics.arm_requests.labels(verb, "200").inc()
            metrics.cloud_error(verb, UnknownOutcome.reason)
            raise UnknownOutcome(f"Azure's answer about {_subject(verb, name)} says nothing: {error}") from error
        metrics.arm_requests.labels(verb, "200").inc()
        return answer

    def _translated(self, error: AzureError, verb: str, name: str) -> Exception:
        ours = errors.translate(error, subject=_subject(verb, name), creating=verb == "PUT")
        metrics.cloud_error(verb, ours.reason)
        if isinstance(ours, ClusterNotRunning):
            self._cluster = None  # what we remember is out of date
        if isinstance(ours, Throttled):
            metrics.arm_throttled.inc()
            self._budget.pause(ours.retry_after or 30.0)
        return ours


def _subject(verb: str, name: str) -> str:
    return SUBJECTS[verb].format(name)


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
