"""Building the conditions of a status: which types there are, what their root says, when each last changed.

Follows the API conventions: `lastTransitionTime` moves only when the status moves, `observedGeneration` is the generation
that was looked at, the order is by type, and setting what is already there changes nothing. Refuses to know any type.
"""
# ruff: noqa: A001, A002  # `type` is the name that metav1.Condition gives it

from collections.abc import Sequence

from kube.meta import Condition

TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"


class ConditionSet:
    """The conditions of one object while a reconcile decides them. `now` is a metav1.Time."""

    def __init__(self, existing: Sequence[Condition], *, generation: int, now: str) -> None:
        self._existing = tuple(existing)
        self._generation = generation
        self._now = now
        self._conditions = {condition.type: condition for condition in existing}

    def set(self, type: str, status: str | bool, reason: str, message: str = "") -> None:
        """Decide one condition. `reason` is CamelCase and part of the interface; `message` is for people."""
        if isinstance(status, bool):
            status = TRUE if status else FALSE
        known = self._conditions.get(type)
        moved = known is None or known.status != status or not known.last_transition_time
        since = self._now if known is None or moved else known.last_transition_time
        self._conditions[type] = Condition(
            type=type,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=since,
            observed_generation=self._generation,
        )

    def get(self, type: str) -> Condition | None:
        return self._conditions.get(type)

    def is_true(self, type: str) -> bool:
        condition = self.get(type)
        return condition is not None and condition.true

    def is_false(self, type: str) -> bool:
        condition = self.get(type)
        return condition is not None and condition.false

    def remove(self, type: str) -> None:
        self._conditions.pop(type, None)

    def root(self, type: str, dependents: Sequence[str], *, reason: str = "", message: str = "") -> None:
        """Compute `type` from its dependents: True when all are, else what the first one says that is not.

        "First" is by the order of `dependents`, but one that is False goes before one that is Unknown or missing.
        """
        pending = [self._conditions.get(name) or _undecided(name) for name in dependents if not self.is_true(name)]
        if not pending:
            self.set(type, TRUE, reason or type, message)
            return
        worst = next((condition for condition in pending if condition.false), pending[0])
        self.set(type, worst.status, worst.reason, worst.message)

    def result(self) -> tuple[Condition, ...]:
        """All conditions, ordered by type."""
        return tuple(self._conditions[type] for type in sorted(self._conditions))

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self.result() != tuple(sorted(self._existing, key=lambda condition: condition.type))


def _undecided(type: str) -> Condition:
    return Condition(type=type, status=UNKNOWN, reason="AwaitingReconciliation", message=f"{type} is not decided yet")


def to_wire(conditions: Sequence[Condition]) -> list[dict[str, object]]:
    """As a status patch carries them: all six fields, also empty ones (`message` is required by metav1.Condition)."""
    return [
        {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": condition.last_transition_time,
            "observedGeneration": condition.observed_generation,
        }
        for condition in conditions
    ]
