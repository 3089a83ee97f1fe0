"""Asks this pod's program how it is, from inside the pod: an exec probe for clusters whose kubelets cannot reach the
status port, and `status` for people (`kubectl exec <pod> -- python -m runtime.probe status`).

Knows the status server's four routes and nothing of the program behind them. Exit status: 0 yes, 1 no, 64 wrong use.
"""

import http.client
import sys

from runtime import contract, program
from runtime.contract import Status

TIMEOUT = 5.0  # seconds
PATHS = {"live": "/livez", "ready": "/readyz", "status": "/status"}


def ask(question: str, port: int) -> tuple[bool, str]:
    """Whether the answer is yes, and what was said."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", PATHS[question])
        response = connection.getresponse()
        return response.status == 200, response.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return False, f"no answer on port {port}: {error}"
    finally:
        connection.close()


def describe(status: Status) -> str:
    """A status for people: what is known, one fact a line."""
    loss = f"{status.loss:.4f}" if status.loss is not None else ""
    facts = {
        "phase": status.phase,
        "reason": status.reason,
        "message": status.message,
        "step": f"{status.step}/{status.total_steps}" if status.total_steps else "",
        "loss": loss,
        "adapters": ", ".join(status.adapters),
        "artifact": status.artifact.ref if status.artifact else "",
    }
    lines = [f"{name + ':':<10}{value}" for name, value in facts.items() if value]
    return "\n".join([*lines, *(f"warning:  {warning.code}: {warning.message}" for warning in status.warnings)])


def main() -> int:
    parser = program.Parser(prog="runtime.probe", description="Ask the program in this pod how it is.")
    parser.add_argument("question", choices=sorted(PATHS))
    parser.add_argument("--json", action="store_true", help="print the status as it is")
    parser.add_argument("--port", type=int, default=contract.STATUS_PORT)
    options = parser.parse_args()
    yes, told = ask(options.question, options.port)
    people = options.question == "status" and yes and not options.json
    print(describe(contract.decode(Status, told)) if people else told)
    return 0 if yes else 1


if __name__ == "__main__":
    sys.exit(main())
