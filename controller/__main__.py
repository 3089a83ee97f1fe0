"""Starts the workspace controller: settings, signals, health server, client, lease, loop; and decides the exit code."""

import asyncio
import logging
import signal
import sys
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any

from controller.loop import Loop
from controller.settings import Settings, SettingsError, parse
from kube import health
from kube.client import Client
from kube.errors import KubeError
from kube.lease import LeaderElector, LeadershipLost
from kube.log import configure
from kube.meta import Key

LEASE = "workspace-controller"
log = logging.getLogger("controller")


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises LeadershipLost, and KubeError where the cluster cannot be reached at all."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with await Client.connect(user_agent="workspace-controller", kubeconfig=settings.kubeconfig) as client:
        elector = None
        if settings.leader_elect:
            elector = LeaderElector(
                client,
                Key(settings.pod_namespace, LEASE),
                # Not the pod's name alone: a container that is restarted in its pod must not pass for its predecessor.
                f"{settings.pod_name}_{uuid.uuid4()}",
                lease_duration=settings.lease_duration,
                renew_deadline=settings.renew_deadline,
                retry_period=settings.retry_period,
            )
            client.guard = elector.may_write
        loop = Loop(client, settings)
        checks = {"stores": loop.synced, "permissions": loop.permitted}
        live = {}
        if elector:
            checks["lease"], live["leader-election"] = elector.reachable, elector.ended
        async with await health.serve("", settings.port, checks=checks, live=live):
            await _until(stop, loop.run(elector))


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or `stop` is set; its failure is ours."""
    task = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not task.done():
        log.info("Stopping")
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        if not stop.is_set():
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 after a signal, 1 on failure, 2 for wrong settings."""
    try:
        settings = parse(sys.argv[1:] if arguments is None else arguments)
    except SettingsError as error:
        print(f"workspace-controller: {error}", file=sys.stderr)
        return 2
    configure(settings.log_level)
    log.info("Starting", extra=dict(settings.printable()))
    failure = ""
    try:
        asyncio.run(run(settings))
    except* LeadershipLost:
        failure = "Leadership was lost; ending, so that nothing is written beside the new leader"
    except* KubeError as group:
        failure = f"The API server cannot be used: {group.exceptions[0]}"
    if failure:
        log.error(failure)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
