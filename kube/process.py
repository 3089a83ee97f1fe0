"""A controller's process: settings, signals, client, Lease, probes, the loop; and the exit code.

What all of that is for comes in as `connect`, which makes the controller's loop once the client stands.
"""

import asyncio
import logging
import signal
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Protocol

from kube import health
from kube.client import Client
from kube.errors import KubeError
from kube.lease import LeaderElector, LeadershipLost
from kube.log import configure
from kube.meta import Key
from kube.options import ProcessSettings

logger = logging.getLogger(__name__)


class Refused(Exception):
    """The controller must not run here. The text says why, and what to do."""


class Work(Protocol):
    """A controller's loop."""

    async def run(self, elector: LeaderElector | None) -> None: ...

    def synced(self) -> bool: ...

    def permitted(self) -> bool: ...


Connect = Callable[[Client], AbstractAsyncContextManager[Work]]


def run(settings: ProcessSettings, connect: Connect) -> int:
    """Run until SIGTERM or SIGINT. Return the exit code: 0 after a signal, 1 where it cannot go on."""
    configure(settings.log_level)
    logger.info("Starting %s", settings.NAME, extra=settings.public())
    failure = ""
    try:
        asyncio.run(_until_signalled(_work(settings, connect)))
    except* LeadershipLost:
        failure = "Leadership was lost; ending, so that nothing is written beside the new leader"
    except* KubeError as group:
        failure = f"The API server cannot be used: {_leaf(group)}"
    except* Refused as group:
        failure = str(_leaf(group))
    if failure:
        logger.error("Ending: %s", failure)
    return 1 if failure else 0


def _leaf(error: BaseException) -> BaseException:
    """The first failure inside of groups of groups: each TaskGroup on its way has wrapped it once more."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _until_signalled(work: Coroutine[Any, Any, None]) -> None:
    """SIGTERM ends the work in order: workers first, the Lease last."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


async def _work(settings: ProcessSettings, connect: Connect) -> None:
    async with await Client.connect(user_agent=settings.NAME, kubeconfig=settings.kubeconfig) as client:
        elector = candidate(client, settings) if settings.leader_elect else None
        if elector:
            client.guard = elector.may_write
        async with connect(client) as loop:
            checks = {"stores": loop.synced, "permissions": loop.permitted}
            live = {}
            if elector:
                checks["lease"], live["leader-election"] = elector.reachable, elector.ended
            async with await health.serve(settings.address, settings.port, checks=checks, live=live):
                await loop.run(elector)


def candidate(client: Client, settings: ProcessSettings) -> LeaderElector:
    """This process as a candidate for the Lease."""
    return LeaderElector(
        client,
        Key(settings.lease_namespace, settings.lease_name),
        # Not the pod's name alone: a container that is restarted in its pod must not pass for its predecessor.
        f"{settings.identity}_{uuid.uuid4()}",
        lease_duration=settings.leader_elect_lease_duration,
        renew_deadline=settings.leader_elect_renew_deadline,
        retry_period=settings.leader_elect_retry_period,
    )
