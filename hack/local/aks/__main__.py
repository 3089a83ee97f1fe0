"""`python -m hack.local.aks`: serve the emulator until SIGTERM or SIGINT.

The end of this process ends nothing else: machines that it booted run on, and the next one with the same folder takes pools, operations,
faults and machines over where they were, even after kill -9. Ending the nodes is `python -m hack.local down`'s business.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hack.local.aks.model import Identity, Settings
from hack.local.aks.server import Service, listening
from hack.local.controlplane import ControlPlane

if TYPE_CHECKING:
    from hack.local.aks.boot import Boot

STATE = "aks-emulator"  # under the run folder


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    own = Identity()
    parser = argparse.ArgumentParser(prog="python -m hack.local.aks", description="The AKS emulator.")
    parser.add_argument(
        "--mode", choices=("pure", "boot"), default="pure", help="boot: pools become real nodes of the box in --folder"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="run folder of the box; state goes to its aks-emulator/ (pure mode without it: memory)",
    )
    parser.add_argument("--address", default="127.0.0.1", help="to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9443, help="(default: %(default)s)")
    parser.add_argument(
        "--tls-cert", type=Path, help="PEM; boot mode without it: one from the box's CA; pure mode: plain HTTP"
    )
    parser.add_argument("--tls-key", type=Path, help="PEM")
    parser.add_argument("--subscription", default=own.subscription)
    parser.add_argument("--resource-group", default=own.resource_group)
    parser.add_argument("--cluster", default=own.cluster)
    parser.add_argument("--location", default=own.location)
    parser.add_argument("--node-resource-group", default="", help="(default: MC_<group>_<cluster>_<location>)")
    parser.add_argument("--settings", default="{}", help="JSON, as PATCH /admin/settings: '{\"createSeconds\": 30}'")
    options = parser.parse_args(argv)
    if options.mode == "boot" and options.folder is None:
        parser.error("--mode boot needs --folder")
    if (options.tls_cert is None) != (options.tls_key is None):
        parser.error("--tls-cert and --tls-key go together")
    return options


def settings(options: argparse.Namespace) -> Settings:
    """Return the defaults of the mode with the given settings over them. Raises ValueError on what is none."""
    given = msgspec.json.decode(options.settings, type=dict)
    if unknown := given.keys() - msgspec.to_builtins(Settings()).keys():
        raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
    boots = options.mode == "boot"
    defaults = {"createSeconds": 1.0, "deleteSeconds": 0.5} if boots else {}
    return msgspec.convert({**defaults, **given, "boots": boots}, Settings)


def certificate(options: argparse.Namespace) -> ssl.SSLContext | None:
    """Return the server's certificate; None for plain HTTP."""
    if options.tls_cert is None and options.mode == "pure":
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if options.tls_cert is not None:
        context.load_cert_chain(options.tls_cert, options.tls_key)
        return context
    authority = ControlPlane.full(options.folder).authority
    pair = authority.server("aks-emulator", (options.address, "localhost", "127.0.0.1"))
    context.load_cert_chain(pair.certificate, pair.key)
    return context


async def serve(options: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    identity = Identity(
        options.subscription,
        options.resource_group,
        options.cluster,
        options.location,
        options.node_resource_group,
    )
    boot = _boot(options.folder) if options.mode == "boot" else None
    service = Service(
        identity,
        settings(options),
        folder=options.folder / STATE if options.folder else None,
        on_change=boot.nudge if boot else lambda: None,
    )
    async with listening(service, options.address, options.port, tls=certificate(options)) as (host, port):
        logging.getLogger(__name__).info("%s mode at %s:%s for %s", options.mode, host, port, identity.path)
        following = asyncio.create_task(boot.run(service)) if boot else None
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait([waiting, *([following] if following else [])], return_when=asyncio.FIRST_COMPLETED)
        if following and following.done():
            following.result()


def _boot(folder: Path) -> "Boot":
    # Here, because the Kubernetes client takes a second to import and pure mode needs none.
    from hack.local.aks.boot import Boot, BoxDriver

    return Boot(BoxDriver(folder))


def main() -> None:
    """Run the program."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    options = arguments()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options))


if __name__ == "__main__":
    main()
