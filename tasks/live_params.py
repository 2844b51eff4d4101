"""The sections ``diagnose`` and ``remediate`` of ``params.yaml``: how a live stack is looked at and acted on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks.metrics import Profile
from tasks.validation import Frozen, Seconds


class NotifyParams(Frozen):
    """Where a diagnosis goes. ``url_file``: a file that holds the URL, where that is a secret (chat webhooks);
    ``token_file``: a bearer token. ``path``: of ``file``, which gets a line of JSON per diagnosis."""

    kind: Literal["slack", "grafana", "alertmanager", "file"]
    url: str | None = None
    url_file: Path | None = None
    token_file: Path | None = None
    path: Path | None = None

    @model_validator(mode="after")
    def _has_a_place(self) -> NotifyParams:
        given = [name for name in ("url", "url_file", "path") if getattr(self, name) is not None]
        wanted = ["path"] if self.kind == "file" else ["url", "url_file"]
        if len(given) != 1 or given[0] not in wanted:
            raise ValueError(f"{self.kind} needs {' or '.join(wanted)}, and nothing else of url, url_file, path")
        return self


class DiagnoseParams(Frozen):
    """How `rcarena diagnose` looks at a live stack.

    ``since_s``: how far back it looks for a change. ``baseline_s``, ``after_s``: how much telemetry it takes before and
    after the change; ``baseline_s`` None: 60 samples, five minutes at least. ``keep``, ``keep_days``: an incident
    beyond either, not labelled, is removed. ``every_s``: of `--watch`. ``join_s``: alerts so close to each other are
    one storm. ``token_file``: the bearer token that a sender of alerts must have.
    """

    methods: Annotated[tuple[str, ...], Field(min_length=1)] = ("peerwise", "nsigma", "baro")
    profile: Profile = "llm"
    since_s: Seconds = 1800
    baseline_s: Seconds | None = None
    after_s: Seconds = 180
    keep: Annotated[int, Field(ge=1, le=100_000)] = 200
    keep_days: Annotated[float, Field(gt=0, le=3650)] = 90
    every_s: Annotated[float, Field(ge=1, le=86_400)] = 60
    join_s: Annotated[float, Field(ge=0, le=3600)] = 30
    token_file: Path | None = None
    notify: Annotated[tuple[NotifyParams, ...], Field(max_length=16)] = ()

    def baseline_at(self, step_s: float) -> float:
        """Return the seconds before the change that metrics with a sample every ``step_s`` need."""
        return self.baseline_s or max(300.0, 60 * step_s)


class GuardParams(Frozen):
    """When an action is allowed.

    ``significance``: p value of the root, at most. ``margin``: its score must be ahead of the next by this share.
    ``max_out``, ``max_out_share``: replicas out at a time, and as a share of all. ``headroom``: what is left must carry
    the offered load times this. ``cooldown``: restart times until the next action on a target that was restarted;
    ``settle_s``: until that on one that was not, so that telemetry shows what it did. ``attempts``: actions
    per incident, and per target within ``breaker_window_s``. ``front_share``: of the requests must be bad before the
    gateway or the head is acted on. ``breaker``: actions on the stack within that; one more,
    and a person must look. ``max_age_s``: how long ago the telemetry of the diagnosis may end.
    """

    significance: Annotated[float, Field(gt=0, le=1)] = 0.01
    margin: Annotated[float, Field(ge=0, le=1)] = 0.1
    max_out: Annotated[int, Field(ge=1, le=1000)] = 1
    max_out_share: Annotated[float, Field(gt=0, le=1)] = 1 / 3
    headroom: Annotated[float, Field(ge=1, le=10)] = 1.1
    cooldown: Annotated[float, Field(ge=0, le=100)] = 1.5
    restart_s: Seconds = 90
    settle_s: Seconds = 30
    front_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    attempts: Annotated[int, Field(ge=1, le=20)] = 2
    breaker: Annotated[int, Field(ge=1, le=1000)] = 4
    breaker_window_s: Seconds = 600
    max_age_s: Seconds = 120


class SloParams(Frozen):
    """What users are promised, and when that is broken or kept again.

    A request is bad if it fails or is slower than ``slack`` times what the ``quantile`` of the baseline took, to its
    first token or per token after that. The alarm goes off when there are more bad requests in the last ``window_s``,
    or in four times that, than the baseline explains (``alarm_p``). It is over at the first ``steady_s`` in which there
    are not.
    """

    quantile: Annotated[float, Field(gt=0.5, lt=1)] = 0.99
    slack: Annotated[float, Field(ge=1, le=10)] = 1.2
    window_s: Seconds = 20
    alarm_p: Annotated[float, Field(gt=0, lt=0.5)] = 1e-6
    steady_s: Seconds = 10
    check_s: Seconds = 2


class RemediateParams(Frozen):
    """The experiment with actions: each case of the campaign under each policy.

    ``enabled``: DVC runs it as a stage of this campaign; the command runs it in any case.
    ``policies``: see docs/remediate.md. ``evidence_s``: telemetry that must lie between the alarm and the diagnosis.
    ``diagnose_again_s``: until the next diagnosis, while the alarm goes on.
    """

    enabled: bool = False
    policies: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "none",
        "restart-random",
        "restart:nsigma",
        "restart:baro",
        "restart:peerwise",
        "table:peerwise",
        "oracle",
    )
    evidence_s: Annotated[float, Field(ge=0, le=3600)] = 0
    diagnose_again_s: Seconds = 30
    health_timeout_s: Seconds = 40
    slo: SloParams = SloParams()
    guards: GuardParams = GuardParams()
