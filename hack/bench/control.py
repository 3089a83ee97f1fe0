"""Asking the bench's server for something: one line of JSON there, one back, on a port beside those that it serves.

Standard library only, since every candidate uses it. Blocking: an answer takes less than a millisecond.
"""

import json
import socket
from typing import Any


def ask(control: int, op: str, /, **arguments: Any) -> dict[str, Any]:
    """Send one command to the control port. Raises OSError where nobody listens."""
    with (
        socket.create_connection(("127.0.0.1", control), timeout=30) as connection,
        connection.makefile("rwb") as stream,
    ):
        stream.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
        stream.flush()
        answer: dict[str, Any] = json.loads(stream.readline())
        return answer
