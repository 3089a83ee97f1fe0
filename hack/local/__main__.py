"""`python -m hack.local up|down|status|assets|images|demo`: AKS in a box from the command line.

Translates errors into words and exit codes, and nothing else: 1 says that the user must act, 130 that they interrupted.
"""

import argparse
import signal
import sys
from types import FrameType

from hack.local.process import BoxError

COMMANDS = {
    "up": "bring the box up: control plane, system node, registries, AKS emulator",
    "down": "end everything of the box and put the network back",
    "status": "say what runs",
    "assets": "build and install what tests need, without a cluster",
    "images": "build the images that are missing, without a cluster",
    "demo": "the whole session: up, tune, serve, ask, down",
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m hack.local", description="AKS in a box.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, meaning in COMMANDS.items():
        commands.add_parser(name, help=meaning, add_help=name != "demo")  # the demo has options of its own
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "demo":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(options.command, rest)
    except BoxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(command: str, rest: list[str]) -> int:
    """Each command imports what it needs: `status` must not wait for the demo's libraries."""
    if command == "demo":
        from hack.local import demo

        return int(demo.main(rest))
    from hack.local import assets, cluster

    if command == "up":
        cluster.up()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is up: too late to say that it was interrupted
    elif command == "down":
        cluster.down()
    elif command == "assets":
        assets.for_tests()
    elif command == "images":
        cluster.build_images()
    else:
        print(cluster.status())
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """`kill` ends a command as Ctrl-C does: what was started is ended first."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
