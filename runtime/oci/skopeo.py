"""Runs skopeo and umoci: logins in a private authfile, never in arguments; scratch space where we are told.

It says whether a command worked and what it printed last. Why a registry refused is `runtime.oci.probe`'s to find out.
"""

import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from runtime.contract import ExitCode, Reason
from runtime.fault import Fault
from runtime.oci import login as logins_of
from runtime.oci.login import Login
from runtime.oci.reference import Reference

logger = logging.getLogger(__name__)

DELETE_TIMEOUT = "30s"  # nobody waits for more: what is deleted is of no use, and does no harm

# Seconds without a transfer: as long as a registry may take to digest what it got, and longer than skopeo's own longest
# wait before it asks one again that answered 429, 60 s (containers/image: backoffMaxDelay, Retry-After included).
SILENT = 90.0
LEAST = 64 * 1024  # bytes that a transfer moves in that time; a runtime that only waits wakes itself by writing a few
LOOK = 5.0


class CommandFailed(Exception):  # says what happened, as subprocess does
    """A command of ours ended with another code than 0, or had to be ended. The text is the last line that it printed."""


def run(command: Sequence[str | Path], scratch: Path) -> str:
    """Run a command to its end and return its standard output. Raises CommandFailed.

    A transfer may take hours, so there is no limit but on silence: skopeo waits for a registry for ever.
    """
    program = shutil.which(str(command[0]))
    if program is None:
        raise Fault(ExitCode.INTERNAL, Reason.INTERNAL, f"`{command[0]}` is missing from this image")
    # HOME too: skopeo keeps a cache below it, and the root file system is read-only.
    environment = os.environ | {"TMPDIR": str(scratch), "HOME": str(scratch)}
    with subprocess.Popen(
        [program, *map(str, command[1:])], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            output, errors = _end(child)
        except BaseException:  # SIGTERM too: nobody waits for a child that nobody wants
            child.kill()
            raise
    if child.returncode != 0:
        lines = [line for line in (errors or output).splitlines() if line.strip()]
        raise CommandFailed(lines[-1] if lines else f"{command[0]} ended with {child.returncode}")
    return output


def _end(child: "subprocess.Popen[str]") -> tuple[str, str]:
    """Wait for a child as long as it reads or writes. Returns what it printed."""
    moved, since = 0, time.monotonic()
    while True:
        try:
            return child.communicate(timeout=LOOK)
        except subprocess.TimeoutExpired as expired:
            now = _moved(child.pid)
            if now is None:  # taken for movement: where no count is ever shown, a silent transfer is never ended
                since = time.monotonic()
            elif now - moved >= LEAST:
                moved, since = now, time.monotonic()
            elif time.monotonic() - since >= SILENT:
                name = Path(expired.cmd[0]).name
                raise CommandFailed(f"{name} has read and written next to nothing for {SILENT:.0f} s") from expired


def _moved(process: int) -> int | None:
    """Bytes that a process has read and written so far, from files and sockets alike.

    None where they are not to be had: of a process that ends, before its pipes close, for anyone but root; of one that
    is not dumpable; of any, where the kernel does not count.
    """
    try:
        lines = Path(f"/proc/{process}/io").read_text().splitlines()
    except OSError:
        return None
    counted = dict(line.split(": ") for line in lines)
    return int(counted["rchar"]) + int(counted["wchar"])


@contextmanager
def authfile(logins: Mapping[str, Login], scratch: Path) -> Iterator[Path]:
    """Provide the logins as a file for the length of one command."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder, "auth.json")
        logins_of.write_authfile(logins, path)
        yield path


def pull(reference: Reference, layout: Path, logins: Mapping[str, Login], scratch: Path) -> None:
    """Copy an image into an OCI layout, under the tag `image`. skopeo checks every digest. Raises CommandFailed."""
    with authfile(logins, scratch) as auth:
        command: list[str | Path] = ["skopeo", "--insecure-policy", "copy", "--quiet", "--authfile", auth]
        command += ["--dest-oci-accept-uncompressed-layers", f"--src-tls-verify={_verify(reference)}"]
        run([*command, f"docker://{reference}", f"oci:{layout}:image"], scratch)


def push(layout: Path, reference: Reference, logins: Mapping[str, Login], scratch: Path) -> None:
    """Copy the image `image` of an OCI layout to a registry, byte for byte. Raises CommandFailed."""
    with authfile(logins, scratch) as auth:
        command: list[str | Path] = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--quiet",
            "--preserve-digests",
            "--authfile",
            auth,
        ]
        run(
            [*command, f"--dest-tls-verify={_verify(reference)}", f"oci:{layout}:image", f"docker://{reference}"],
            scratch,
        )


def delete(reference: Reference, logins: Mapping[str, Login], scratch: Path) -> None:
    """Delete the manifest behind a reference, and with it every tag of it. Raises CommandFailed."""
    with authfile(logins, scratch) as auth:
        command: list[str | Path] = ["skopeo", "--insecure-policy", f"--command-timeout={DELETE_TIMEOUT}", "delete"]
        run([*command, "--authfile", auth, f"--tls-verify={_verify(reference)}", f"docker://{reference}"], scratch)


def raw_manifest(reference: Reference, logins: Mapping[str, Login], scratch: Path) -> str:
    """Fetch a manifest as the registry has it. Raises CommandFailed."""
    with authfile(logins, scratch) as auth:
        command: list[str | Path] = ["skopeo", "--insecure-policy", "inspect", "--raw", "--authfile", auth]
        return run([*command, f"--tls-verify={_verify(reference)}", f"docker://{reference}"], scratch)


def unpack(layout: Path, bundle: Path, scratch: Path) -> Path:
    """Unpack the image `image` of a layout without privileges and return its root. Raises CommandFailed."""
    shutil.rmtree(bundle, ignore_errors=True)
    run(["umoci", "unpack", "--rootless", "--image", f"{layout}:image", bundle], scratch)
    return bundle / "rootfs"


def _verify(reference: Reference) -> str:
    return "false" if reference.plain_http else "true"
