"""The constants of a simulated stack: a YAML file that says where each comes from.

``rcarena calibrate`` fits one to recorded cases; two come with the project, in ``calibrations/``.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from bisect import bisect_right
from functools import cache, cached_property
from importlib import resources
from math import erf, exp, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationError, model_validator

from tasks.errors import ParamsError
from tasks.text import suggest
from tasks.validation import Frozen, validation_problems
from tasks.yaml_core import YamlError, dump, load

if TYPE_CHECKING:  # the DAGs plan without numpy
    import numpy as np

Positive = Annotated[float, Field(gt=0)]
Nonnegative = Annotated[float, Field(ge=0)]
FOLDER = resources.files(__package__) / "calibrations"


HANDOVER_AT = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
"""Shares at which the quantiles of the hand-over are kept: its tail moves means."""


def _interpolated(x: float, at: tuple[float, ...], values: tuple[float, ...]) -> float:
    right = min(max(bisect_right(at, x), 1), len(at) - 1)
    share = (x - at[right - 1]) / (at[right] - at[right - 1])
    return values[right - 1] + share * (values[right] - values[right - 1])


class StepLaw(Frozen):
    """Seconds of one engine step: ``fixed_s`` + ``per_sequence_s`` x sequences that decode + ``per_kv_token_s`` x their
    tokens in the KV cache + ``per_prefill_token_s`` x prompt tokens in the step.

    ``host_share``: the part of ``fixed_s`` that the CPU takes (1: a CPU engine); the rest follows the GPU's clock.
    ``sigma``, ``tau_s``: size (of the logarithm) and correlation time of its noise; ``shared``: part of its variance
    that all replicas have in common, because they share a machine.

    Source of the form: BLIS inference simulator; fitted by least squares (``rcarena calibrate``).
    """

    fixed_s: Positive
    per_sequence_s: Nonnegative = 0
    per_kv_token_s: Nonnegative = 0
    per_prefill_token_s: Nonnegative = 0
    host_share: Annotated[float, Field(ge=0, le=1)] = 1
    sigma: Nonnegative = 0
    tau_s: Positive = 1
    shared: Annotated[float, Field(ge=0, le=1)] = 0


class EngineModel(Frozen):
    """An engine. ``before_s``, ``after_s``: median time of a request in the replica before and after the engine;
    ``request_sigma``: spread (of the logarithm) of such times. ``handover_s``, ``handover_sigma``: between the engine's
    front end and its core, where a request starts to queue; ``queue_s``: shortest wait in that queue.
    ``handover_quantiles``: ``handover_s`` is multiplied by what has these quantiles, at ``HANDOVER_AT``; without them
    by what has a normal logarithm. ``report_s``: how
    often it hands its metrics to what is scraped (0: it is scraped itself). ``restart_s``: time from a kill until it
    serves again.
    """

    step: StepLaw
    max_num_seqs: Annotated[int, Field(ge=1, le=4096)]
    max_batched_tokens: Annotated[int, Field(ge=1)]
    kv_tokens: Annotated[int, Field(ge=16)]
    before_s: Nonnegative
    after_s: Nonnegative
    request_sigma: Nonnegative
    handover_s: Nonnegative = 0
    handover_sigma: Nonnegative = 0
    queue_s: Nonnegative = 0
    handover_quantiles: tuple[Positive, ...] = ()
    report_s: Nonnegative = 0
    restart_s: Positive

    @model_validator(mode="after")
    def _quantiles_ascend(self) -> EngineModel:
        known = self.handover_quantiles
        if known and (len(known) != len(HANDOVER_AT) or list(known) != sorted(known)):
            raise ValueError(f"handover_quantiles: {len(HANDOVER_AT)} ascending numbers (got {len(known)})")
        return self

    def handover_factor(self, drawn: float) -> float:
        """Return what the hand-over is multiplied by for a number drawn from a standard normal distribution."""
        if not self.handover_quantiles:
            return exp(self.handover_sigma * drawn)
        return _interpolated((1 + erf(drawn / sqrt(2))) / 2, HANDOVER_AT, self.handover_quantiles)


class ProxyModel(Frozen):
    """The gateway or the head: median time of a request in it before it is passed on and after the answer has come."""

    before_s: Nonnegative
    after_s: Nonnegative
    sigma: Nonnegative
    restart_s: Positive


class Residuals(Frozen):
    """What the work does not explain, in ``windows`` recorded windows of ``length`` times ``step_s`` apart: the
    logarithm of value / expected for each of ``metrics``; of memory, of value / median of the window.

    ``values``: little-endian float16, (windows, length, metrics), packed by zlib and base64.
    """

    metrics: tuple[str, ...]
    step_s: Positive
    windows: Annotated[int, Field(ge=1)]
    length: Annotated[int, Field(ge=2)]
    values: str

    @classmethod
    def of(cls, metrics: tuple[str, ...], step_s: float, table: np.ndarray) -> Residuals:
        packed = b64encode(zlib.compress(table.astype("<f2").tobytes(), 9)).decode()
        windows, length = table.shape[:2]
        return cls(metrics=metrics, step_s=step_s, windows=windows, length=length, values=packed)

    @cached_property
    def table(self) -> np.ndarray:
        """Return the residuals, shape (windows, length, metrics)."""
        import numpy as np

        flat = np.frombuffer(zlib.decompress(b64decode(self.values)), dtype="<f2").astype(float)
        return flat.reshape(self.windows, self.length, len(self.metrics))

    @model_validator(mode="after")
    def _can_be_unpacked(self) -> Residuals:
        try:
            numbers = len(zlib.decompress(b64decode(self.values))) // 2
        except (ValueError, zlib.error) as error:
            raise ValueError("values: not packed by zlib and base64") from error
        wanted = self.windows * self.length * len(self.metrics)
        if numbers != wanted:
            raise ValueError(f"values: windows x length x metrics are {wanted} numbers (got {numbers})")
        return self


class HostModel(Frozen):
    """Host metrics of a service of one role: a part that is always there and parts that follow the work.

    ``memory_per_ongoing``: bytes that each request in the service beyond ``memory_ongoing_free`` takes and never gives
    back; ``memory_fresh``: memory after a restart, as a part of that before. ``stall_s``, ``handover_stall_s``: mean
    extra wait of a request for the CPU, before the engine and between its front end and core, when one process beside
    the service is busy; of more it is that times their number to the power of ``FaultResponse.stall_power``.
    ``quota_bound``: its work takes whole cores in bursts, and beside other processes gets a part of ``cores`` even
    below one. ``residuals``: what the work does not explain, as recorded; without them ``noise``: metric -> its spread
    (of the logarithm), ``noise_tau_s``: its correlation time.
    """

    cores: Positive | None = None
    cpu_idle: Nonnegative
    cpu_per_work_s: Nonnegative = 0
    cpu_per_request: Nonnegative = 0
    cpu_per_token: Nonnegative = 0
    throttled_per_work_s: Nonnegative = 0
    memory_bytes: Positive
    memory_per_kv_token: Nonnegative = 0
    receive_idle: Nonnegative
    receive_per_request: Nonnegative
    receive_per_token: Nonnegative = 0
    transmit_idle: Nonnegative
    transmit_per_request: Nonnegative
    transmit_per_token: Nonnegative = 0
    processes: Annotated[int, Field(ge=1)]
    working_set_factor: Positive = 1.015
    memory_per_ongoing: Nonnegative = 0
    memory_ongoing_free: Nonnegative = 0
    memory_fresh: Positive = 1
    stall_s: Nonnegative = 0
    handover_stall_s: Nonnegative = 0
    quota_bound: bool = False
    residuals: Residuals | None = None
    noise: dict[str, Nonnegative] = Field(default={})
    noise_tau_s: Positive = 2


class GpuModel(Frozen):
    """A GPU: clocks in MHz, power in W, temperature in Celsius. Power is ``idle_w`` + utilisation x (``busy_w`` -
    ``idle_w``) x (clock / maximum) ** ``power_exponent``; temperature follows it with ``temperature_tau_s``.

    ``clock_share``: the part of a decode step that follows the SM clock (decode is bound by memory).
    """

    name: str
    max_clock: Positive
    min_clock: Positive
    idle_clock: Positive
    idle_w: Positive
    busy_w: Positive
    limit_w: Positive
    min_limit_w: Positive
    power_exponent: Positive
    clock_share: Annotated[float, Field(ge=0, le=1)]
    ambient_c: float
    celsius_per_w: Positive
    temperature_tau_s: Positive
    memory_used_bytes: Positive


class FaultResponse(Frozen):
    """What the rest of a stack makes of a fault. ``call_trips``, ``own_trips``: how many one-way ways of a service's
    link a request waits for, as its caller sees it and in the service's own span. ``probe_deadline_s``: the router
    passes over a replica that answers later, in ``passed_over_most`` of the choices at most: it asks again with a later
    deadline, and routes by what it last heard. ``cut_hears``: part of the bytes that come in any case which come while
    the link is cut; ``least_link_share``: part of a limited link that answers get, whatever else is on it.
    ``retransmit_s``: first wait before a lost packet is sent again. ``acknowledged_stall``: part of the head's wait for
    its CPU that shows in the spans of replicas, whose streams it acknowledges. ``stress_throttled``: throttled time per
    second of what a stressor wants beyond the quota, as a part of all; ``memory_throttled``: the same beside a memory
    stressor per used quota. ``unhealthy_after_s``: so long a replica may answer nobody before it counts as unhealthy.
    ``stressor_bytes``: memory of a stressor's process. ``missed_scrapes``: share of the scrapes that fail without a
    fault, for twins.
    """

    call_trips: Nonnegative
    own_trips: Nonnegative
    gateway_trips: Nonnegative
    probe_deadline_s: Positive
    retransmit_s: Positive
    passed_over_most: Annotated[float, Field(gt=0, le=1)] = 1
    cut_hears: Annotated[float, Field(ge=0, le=1)] = 0.15
    least_link_share: Annotated[float, Field(gt=0, le=1)] = 0.15
    throttled_threads: Nonnegative
    stress_throttled: Nonnegative
    memory_throttled: Nonnegative = 0
    memory_step_factor: Annotated[float, Field(ge=1)] = 1
    stall_power: Positive = 1
    acknowledged_stall: Annotated[float, Field(ge=0, le=1)] = 0
    unhealthy_after_s: Nonnegative = 30
    stressor_bytes: Nonnegative = 0
    missed_scrapes: Annotated[float, Field(ge=0, lt=1)] = 0

    @property
    def trips_before(self) -> float:
        """One-way ways of a link before a replica has the request."""
        return self.call_trips - self.own_trips


class Calibration(Frozen):
    """The constants of a simulated stack. ``sources``: where each group of constants comes from, in words."""

    name: str
    model: str
    engine_name: str
    engine: EngineModel
    gateway: ProxyModel
    head: ProxyModel
    host_gateway: HostModel
    host_head: HostModel
    host_replica: HostModel
    gpu: GpuModel | None = None
    response: FaultResponse
    send_lag_s: Nonnegative = 0.0003
    dt_s: Positive
    sources: dict[str, str]

    @model_validator(mode="after")
    def _every_group_has_a_source(self) -> Calibration:
        groups = {name for name in type(self).model_fields if isinstance(getattr(self, name), Frozen)}
        if missing := sorted(groups - self.sources.keys()):
            raise ValueError(f"sources: nothing says where these come from: {', '.join(missing)}")
        return self

    def host_of(self, service: int) -> HostModel:
        """Return the host model of the service with this index: gateway, head, then replicas."""
        return (self.host_gateway, self.host_head, self.host_replica)[min(service, 2)]

    def dump(self) -> str:
        """Return the calibration as YAML."""
        return dump(self.model_dump(mode="json", exclude_none=True))


def shipped() -> tuple[str, ...]:
    """Return the names of the calibrations that come with the project."""
    return tuple(sorted(each.name.removesuffix(".yaml") for each in FOLDER.iterdir() if each.name.endswith(".yaml")))


def read_calibration(name: str) -> Calibration:
    """Read a shipped calibration by its name, or a file by its path.

    Raises:
        ParamsError: there is none, or it is not one; every problem names its key.
    """
    if name in shipped():
        return _shipped(name)
    try:
        content = Path(name).read_bytes()
    except OSError as error:
        known = suggest(name, shipped())
        raise ParamsError([f"deploy.calibration: '{name}' is no file and no shipped calibration; {known}"]) from error
    return _parsed(name, content)


@cache
def _shipped(name: str) -> Calibration:
    return _parsed(name, (FOLDER / f"{name}.yaml").read_bytes())


def _parsed(name: str, content: bytes) -> Calibration:
    try:
        return Calibration.model_validate(load(content))
    except YamlError as error:
        raise ParamsError([f"{name}: not valid YAML: {error}"]) from error
    except ValidationError as error:
        raise ParamsError(f"{name}: {each}" for each in validation_problems(error, Calibration)) from error
