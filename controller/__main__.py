"""`python -m controller`: the workspace controller."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext

from controller.loop import Loop
from controller.settings import Settings
from kube import options, process


def main(arguments: Sequence[str] | None = None) -> int:
    settings = options.load(Settings, arguments)
    return process.run(settings, lambda client: nullcontext(Loop(client, settings)))


if __name__ == "__main__":
    sys.exit(main())
