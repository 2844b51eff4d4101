"""The attached backend as commands and campaigns see it. ``up`` looks and remembers; ``down`` forgets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.backends import register
from tasks.backends.attached.params import AttachedDeployParams
from tasks.backends.base import Answer, Attachment, Backend, MissingSeries, Say
from tasks.deploy.errors import DeployError
from tasks.workspace import RUNTIME_FILE, Workspace

if TYPE_CHECKING:
    from tasks.backends.attached.runtime import AttachedRuntime
    from tasks.backends.attached.stack import AttachedStack
    from tasks.inject.executor import FaultSupport
    from tasks.params import AskedCase


@register
class AttachedBackend(Backend[AttachedDeployParams]):
    name = "attached"
    parameters = AttachedDeployParams

    @classmethod
    def campaign_problems(cls, deploy: AttachedDeployParams) -> list[str]:
        """Load is sent only where its owner says where to."""
        given = {"gateway_url": deploy.gateway_url, "model": deploy.model}
        return [
            f"deploy.{key}: is not set, so the stack can only be read; a campaign needs it"
            for key, value in given.items()
            if not value
        ]

    @classmethod
    def injection_problems(cls, deploy: AttachedDeployParams, cases: Sequence[AskedCase]) -> list[str]:
        """Faults need the owner's leave, and act on one replica at a time."""
        if cases and (not deploy.allow_faults or deploy.faults is None):
            return ["inject: deploy.allow_faults is not set: the stack is somebody else's, and is only read"]
        problems: dict[str, None] = {}
        for case in cases:
            for key, spec in case.injections.items():
                if deploy.faults and spec.target not in deploy.faults.services:
                    allowed = ", ".join(deploy.faults.services)
                    problems[f"{key}: '{spec.target}' is not among deploy.faults.services: {allowed}"] = None
            if len({spec.target for spec in case.injections.values()}) > 1:
                problems[f"{next(iter(case.injections))}: deploy.faults.max_replicas is 1: one target per case"] = None
        return list(problems)

    @classmethod
    def read_runtime(cls, directory: Path) -> AttachedRuntime | None:
        from tasks.backends.attached.runtime import AttachedRuntime

        return AttachedRuntime.read(directory)

    @classmethod
    def faults(cls) -> FaultSupport:
        from tasks.backends.attached.faults import SUPPORT

        return SUPPORT

    @classmethod
    def propose(cls, order: Attachment) -> Answer:
        from tasks.backends.attached.propose import propose

        return propose(order)

    def up(self, say: Say) -> None:
        """Check that the stack can be read, and remember it. Nothing of it is changed."""
        from tasks.backends.attached.checks import examine

        live = self.live()
        found = examine(live.sources(), live.describe(), self.deploy.scrape_interval_s)
        if found.failures:
            raise DeployError("\n".join(found.failures))
        for check in found.checks:
            say(f"{check.name}: {check.result}")
        known = {
            service.name: {
                match.labels[service.each]: match.service
                for match in found.matches
                if match.service in service.names and service.each in match.labels
            }
            for service in self.deploy.services
            if service.each is not None
        }
        live.runtime.model_copy(update={"known": known, "attached_at": datetime.now(UTC)}).write()

    def down(self, say: Say | None = None, also: Collection[str] = ()) -> bool:
        """Forget the stack; it runs on."""
        file = self.workspace.stack / RUNTIME_FILE
        there = file.exists()
        file.unlink(missing_ok=True)
        if there and say is not None:
            say("the stack is somebody else's: it runs on")
        return there

    def renew_lease(self) -> None:
        """There is nothing to lease."""

    def hold_lease(self, duration_s: int) -> None:
        """There is nothing to lease."""

    def drop_lease(self) -> None:
        """There is nothing to lease."""

    def live(self) -> AttachedStack:
        """Return the stack as the parameters say it is; `rcarena deploy up` need not have been called."""
        from tasks.backends.attached.runtime import AttachedRuntime

        published = self.read_runtime(self.workspace.stack)
        known = published.known if published is not None else {}
        return self.live_stack(AttachedRuntime(deploy=self.deploy, directory=self.workspace.stack, known=known))

    def live_stack(self, runtime: AttachedRuntime) -> AttachedStack:
        from tasks.backends.attached.stack import AttachedStack

        return AttachedStack(runtime)

    @classmethod
    def status(cls, workspace: Workspace, deploy: AttachedDeployParams | None) -> Answer:
        from tasks.backends.attached.checks import examine

        runtime = cls.read_runtime(workspace.stack)
        if runtime is None:
            return Answer("down: no stack is attached here; `rcarena deploy up` attaches it", {"state": "down"}, "")
        live = cls(deploy or runtime.deploy, workspace).live()
        found = examine(live.sources(), live.describe(), live.runtime.deploy.scrape_interval_s)
        state = "degraded" if found.failures else "ready"
        lines = [f"{state}: {len(runtime.services)} services of somebody else's stack", *map(str, found.checks)]
        document = {"state": state, "checks": [vars(check) for check in found.checks]}
        return Answer("\n".join(lines), document, "" if found.failures else None)

    def preflight(self, missing_series: MissingSeries | None) -> Answer:
        from tasks.backends.attached.checks import examine

        live = self.live()
        found = examine(live.sources(), live.describe(), self.deploy.scrape_interval_s)
        lines = list(map(str, found.checks))
        document = [vars(check) for check in found.checks]
        return Answer("\n".join(lines), document, "" if found.failures else None)
