"""Milestones of a Workspace as events: what `kubectl describe workspace` shows under Events."""

from collections.abc import Iterable
from typing import NamedTuple

from controller.world import World
from kube.api.workspace import Workspace


class Milestone(NamedTuple):
    """One thing that happened: `type` is Normal or Warning, `action` the condition or the deed that it is about."""

    type: str
    reason: str
    message: str
    action: str


def tell(world: World, workspace: Workspace, milestones: Iterable[Milestone]) -> None:
    """Send each as an event of the Workspace. An event needs a message; the reason stands in where there is none."""
    for type_, reason, message, action in milestones:
        world.event(workspace, type_, reason, message or reason, action)
