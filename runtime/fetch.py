"""Brings model weights, an adapter or a data set into a folder: the init containers' program.

Parse, choose the source, fetch until the deadline, publish. While it retries, `/status` says why; a second run is a no-op.
Exit codes: 64 for a bad command line, 65 for a data image without data, 66 when the input did not come before the
deadline, 75 on SIGTERM.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime import contract, program
from runtime.address import allowed_ranges
from runtime.contract import ExitCode, Phase, Reason
from runtime.fault import config_invalid
from runtime.oci.reference import Reference
from runtime.retry import Schedule, until_deadline
from runtime.sources import Source
from runtime.status import Reporter
from runtime.target import Target

logger = logging.getLogger(__name__)

DEADLINE = 1800.0
SIZE_LIMIT = 200 << 30

# kind → (folder inside an image, reason when it cannot be had, reason when an image has not what it should)
_KINDS = {
    "model": (contract.IMAGE_WEIGHTS_DIR, Reason.WEIGHTS_UNREACHABLE, Reason.WEIGHTS_UNREACHABLE),
    "adapter": (contract.IMAGE_DATA_DIR, Reason.ADAPTER_UNREACHABLE, Reason.ADAPTER_INVALID),
    "data": (contract.IMAGE_DATA_DIR, Reason.DATA_UNREACHABLE, Reason.DATASET_INVALID),
}

# What ends the program when an image has no files where they are expected. A data set's image that has none will not
# have them in the next pod either; a server of models waits for the image to be mended.
_MISSING = ExitCode.INPUT_MISSING
_EMPTY = {"data": ExitCode.DATA_INVALID}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = program.Parser(prog="runtime.fetch", description="Bring weights, an adapter or data into a folder.")
    parser.add_argument("kind", choices=_KINDS)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image", metavar="REF", help="OCI image with the files")
    source.add_argument("--hub", metavar="ID", help="repository of a model hub")
    source.add_argument("--url", metavar="U", nargs="+", help="http(s) URLs, data only")
    parser.add_argument("--revision", default="", help="commit, tag or branch of --hub")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR")
    parser.add_argument("--auth", type=Path, action="append", default=[], metavar="DIR", help="mounted registry Secret")
    parser.add_argument("--token-file", type=Path, help="hub token in a mounted Secret")
    parser.add_argument("--deadline", type=float, default=DEADLINE, metavar="SECONDS")
    parser.add_argument("--size-limit", type=int, default=SIZE_LIMIT, metavar="BYTES", help="of one URL")
    program.add_common(parser)
    return parser.parse_args(arguments)


def choose(options: argparse.Namespace) -> Source:
    """Make the source that the options name. Raises Fault when they make no sense."""
    folder, unreachable, invalid = _KINDS[options.kind]
    if options.image:
        from runtime.sources.image import Image

        try:
            reference = Reference.parse(options.image)
        except ValueError as error:
            raise config_invalid(str(error)) from error
        return Image(reference, folder, tuple(options.auth), unreachable, invalid, _EMPTY.get(options.kind, _MISSING))
    if options.hub:
        from runtime.sources.hub import Hub

        repository_type = "dataset" if options.kind == "data" else "model"
        return Hub(options.hub, options.revision, repository_type, options.token_file, unreachable)
    from runtime.sources.web import Web

    wrong = [url for url in options.url if not url.startswith(("http://", "https://"))]
    if wrong or options.kind != "data":
        raise config_invalid(f"--url takes http and https, for data: {' '.join(wrong)}")
    return Web(tuple(options.url), options.size_limit, allowed_ranges())


def fetch(options: argparse.Namespace, reporter: Reporter) -> None:
    source = choose(options)
    target = Target(options.to)
    with target.locked():
        if target.holds(source.key):
            logger.info("already complete: %s", source.key)
            return
        work = target.start(source.key)
        tree = until_deadline(Schedule(options.deadline), lambda: source.download(work, reporter), reporter)
        sizes = target.finish(source.key, tree)
    logger.info("fetched %s", source.key, extra={"files": len(sizes), "bytes": sum(sizes.values())})


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    work: Callable[[Reporter], None] = lambda reporter: fetch(options, reporter)  # noqa: E731
    return program.run(work, phase=Phase.FETCHING, port=options.port, termination_log=options.termination_log)


if __name__ == "__main__":
    sys.exit(main())
