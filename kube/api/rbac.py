"""Permissions as data, declared beside the code that needs them; the manifests are generated from these tables.

Convention: a package with permissions has a module `rbac` with `CLUSTER` (a ClusterRole) and `NAMESPACED` (a Role in the
package's own namespace). A wildcard is refused: least privilege is read off the table, not believed.
"""

from dataclasses import dataclass

READ = ("get", "list", "watch")
CACHED = ("list", "watch")  # where nothing is read but by an informer, or as a whole


@dataclass(frozen=True)
class PolicyRule:
    """One rule of a Role: `verbs` on `resources` of one API group ("" is the core group), all of them or those named."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "*" in (self.group, *self.resources, *self.verbs):
            raise ValueError(f"wildcards are refused: {self}")
