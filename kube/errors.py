"""What can go wrong between us and the API server, as types.

Foreign errors are translated once, where they come in (`kube.client`, `kube.stream`, `kube.auth`), by status code and
`reason` field and never by message text; the cause is chained. Code above decides by type alone.
"""

from collections.abc import Mapping


class KubeError(Exception):
    """Base of everything that `kube` raises on purpose."""


class NoCredentials(KubeError):
    """Neither a pod's mounted files nor a kubeconfig say where the API server is and who we are."""


class ConnectionFailed(KubeError):
    """No answer: refused, reset, timed out, TLS failure. The request may or may not have been carried out."""


class NotLeading(KubeError):
    """A write was refused locally because leadership is lost or its lease is about to run out. Nothing was sent."""


class ApiError(KubeError):
    """The API server answered with a failure.

    `code` is the HTTP status, `reason` the machine-readable metav1.StatusReason ("NotFound", "AlreadyExists", …),
    `retry_after` the seconds that the server asked us to wait (None where it did not), `details` metav1.StatusDetails.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        retry_after: float | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.details = details or {}

    def cause(self, reason: str) -> bool:
        """Whether one of the causes in the details has this reason (metav1.CauseType)."""
        causes = self.details.get("causes")
        return isinstance(causes, list) and any(
            isinstance(each, dict) and each.get("reason") == reason for each in causes
        )


class BadRequest(ApiError):
    """400: malformed, or a query parameter that this server does not know."""


class Unauthorized(ApiError):
    """401, after one refresh of the credential."""


class Forbidden(ApiError):
    """403: RBAC, or an admission plugin said no."""


class NotFound(ApiError):
    """404: no such object, or no such kind."""


class Conflict(ApiError):
    """409 Conflict: a precondition (resourceVersion, uid) or another field manager. Read again, then retry."""


class AlreadyExists(ApiError):
    """409 AlreadyExists on create. Deterministic names make this success in disguise: check the owner."""


class Gone(ApiError):
    """410: the resourceVersion or continue token has been compacted away. List again."""


class Invalid(ApiError):
    """422: the object breaks its schema or a CEL rule."""


class TooManyRequests(ApiError):
    """429: API priority and fairness, or an eviction that a PodDisruptionBudget forbids for now."""


class ServerError(ApiError):
    """5xx. Whether a write was carried out is unknown."""
