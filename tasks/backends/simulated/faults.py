"""The faults of a simulated stack, as physics: what each kind of the catalogue does to the state of its service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import TypeAdapter

from tasks import metrics
from tasks.backends.simulated.calibration import Calibration, GpuModel, read_calibration, shipped
from tasks.backends.simulated.params import GATEWAY_INDEX, HEAD_INDEX, SimulatedDeployParams
from tasks.inject.errors import FaultError
from tasks.inject.executor import FaultExecutor, FaultSupport, FaultTarget, UndoStepBase
from tasks.inject.probe import Probe
from tasks.metrics import Metric
from tasks.stack import StackParams

if TYPE_CHECKING:  # the DAGs plan without numpy
    from tasks.backends.simulated.world import Apply, World

MIB = 2**20
ROLLOUT = "bad-rollout"
"""The kind that is a new version of its target."""
LEAST_SHARE = 0.2
"""Of a quota that what always runs would use up, this part goes to the engine's steps all the same."""
Parameters = Mapping[str, Any]
LastsS = Callable[[Calibration, int, float], float]


@dataclass(frozen=True)
class Shown:
    """An effect must show in ``metric`` of the target: ``rise`` or ``fall`` by this share of the value before, or
    ``silence`` of the metric (the share of samples that are missing). ``quantile``: what is compared; clocks are high
    only while there is work."""

    metric: Metric
    change: Literal["rise", "fall", "silence"]
    share: float = 0.2
    quantile: float = 0.5

    def is_seen(self, before: float, during: float) -> bool:
        if self.change == "silence":
            return during - before >= self.share
        difference = during - before if self.change == "rise" else before - during
        return difference >= self.share * abs(before) and difference > 0

    @property
    def criterion(self) -> str:
        if self.change == "silence":
            return f"at least {self.share:.0%} of its samples missing"
        return f"a {self.change} by {self.share:.0%}"


@dataclass(frozen=True)
class SimulatedFault:
    """One kind. ``effect``: parameters -> change of the state. ``shown``: all of these must be seen for the verdict
    ``effective``; the first is the probe. ``lasts_s``: how long the effect lasts where the injection's end does not
    end it, from the service and the injection's duration. ``needs``: what the stack must have. ``node``: it acts on all
    services on the target's node. ``defaults``: parameters that differ from the kind's."""

    effect: Callable[[Parameters], Apply]
    shown: tuple[Shown, ...]
    lasts_s: LastsS | None = None
    needs: Literal["", "GPU", "nodes"] = ""
    node: bool = False
    defaults: Mapping[str, Any] | None = None


FAULTS: dict[str, SimulatedFault] = {}


def _fault(
    kind: str,
    *shown: Shown,
    lasts_s: LastsS | None = None,
    needs: Literal["", "GPU", "nodes"] = "",
    node: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> Callable[[Callable[[Parameters], Apply]], Callable[[Parameters], Apply]]:
    def register(effect: Callable[[Parameters], Apply]) -> Callable[[Parameters], Apply]:
        FAULTS[kind] = SimulatedFault(effect, shown, lasts_s, needs, node, defaults)
        return effect

    return register


def restart_s(calibration: Calibration, service: int) -> float:
    """Return the time from a kill of the service until it serves again."""
    if service == GATEWAY_INDEX:
        return calibration.gateway.restart_s
    return calibration.head.restart_s if service == HEAD_INDEX else calibration.engine.restart_s


def _until_restarted(calibration: Calibration, service: int, _: float) -> float:
    return restart_s(calibration, service)


def _until_back_and_restarted(calibration: Calibration, service: int, duration_s: float) -> float:
    return duration_s + restart_s(calibration, service)


def speed_at(gpu: GpuModel, clock: float) -> float:
    """Return the speed of a decode step at an SM clock, 1 at the highest: only a part of the step follows the clock."""
    return 1 / (gpu.clock_share * gpu.max_clock / clock + 1 - gpu.clock_share)


def clock_within(gpu: GpuModel, watts: float) -> float:
    """Return the SM clock at which a busy GPU draws ``watts``."""
    share = max(watts - gpu.idle_w, 0) / (gpu.busy_w - gpu.idle_w)
    return max(gpu.min_clock, min(1.0, share ** (1 / gpu.power_exponent)) * gpu.max_clock)


@_fault("cpu-stress", Shown(metrics.CPU_USAGE, "rise", 0.3))
def _cpu_stress(parameters: Parameters) -> Apply:
    wanted = float(parameters["workers"]) * float(parameters["load_percent"]) / 100

    def apply(world: World, service: int, calibration: Calibration) -> None:
        host = calibration.host_of(service)
        crowd = (1 + wanted) / max(1.0, host.cores or 1.0)
        if crowd > 1:
            world.host[service] /= max(crowd, (1 + wanted) / host.cores if host.quota_bound and host.cores else 0)
            busy = (crowd - 1) ** calibration.response.stall_power
            world.stall_s[service] += host.stall_s * busy
            world.handover_stall_s[service] += host.handover_stall_s * busy
        world.stress_cores[service] += wanted
        world.extra_processes[service] += int(parameters["workers"]) + 1
        world.extra_memory[service] += int(parameters["workers"]) * calibration.response.stressor_bytes

    return apply


@_fault("memory-stress", Shown(metrics.MEMORY_RSS, "rise", 0.05))
def _memory_stress(parameters: Parameters) -> Apply:
    def apply(world: World, service: int, calibration: Calibration) -> None:
        world.extra_memory[service] += float(parameters["size_mb"]) * MIB
        world.filled[service] = True
        world.extra_processes[service] += int(parameters["workers"]) + 2
        world.stress_cores[service] += 0.12
        world.host[service] /= calibration.response.memory_step_factor

    return apply


@_fault("network-delay", Shown(metrics.LATENCY_P90, "rise", 0.2))
def _delay(parameters: Parameters) -> Apply:
    def apply(world: World, service: int, _: Calibration) -> None:
        world.delay_s[service] += float(parameters["delay_ms"]) / 1e3
        world.jitter_s[service] += float(parameters["jitter_ms"]) / 1e3

    return apply


@_fault("network-loss", Shown(metrics.LATENCY_P90, "rise", 0.2))
def _loss(parameters: Parameters) -> Apply:
    def apply(world: World, service: int, _: Calibration) -> None:
        world.loss[service] = 1 - (1 - world.loss[service]) * (1 - float(parameters["loss_percent"]) / 100)

    return apply


@_fault("network-bandwidth", Shown(metrics.LATENCY_P90, "rise", 0.2))
def _bandwidth(parameters: Parameters) -> Apply:
    def apply(world: World, service: int, calibration: Calibration) -> None:
        world.rate[service] = min(world.rate[service], float(parameters["rate_kbit"]) * 1000 / 8)
        world.link_use[service] = min(1.0, calibration.host_of(service).transmit_idle / world.rate[service])

    return apply


@_fault("network-partition", Shown(metrics.NETWORK_TRANSMIT, "fall", 0.8))
def _partition(_: Parameters) -> Apply:
    def apply(world: World, service: int, _: Calibration) -> None:
        world.cut[service] = True

    return apply


@_fault("process-freeze", Shown(metrics.CPU_USAGE, "fall", 0.9))
def _freeze(_: Parameters) -> Apply:
    def apply(world: World, service: int, _: Calibration) -> None:
        world.frozen[service] = True

    return apply


@_fault("engine-stall", Shown(metrics.GENERATION_TOKENS_RATE, "fall", 0.9))
def _stall(_: Parameters) -> Apply:
    def apply(world: World, service: int, _: Calibration) -> None:
        world.stalled[service] = True

    return apply


def _down(_: Parameters) -> Apply:
    def apply(world: World, service: int, _: Calibration) -> None:
        world.down[service] = True

    return apply


_FEWER_PROCESSES = Shown(metrics.PROCESSES, "fall", quantile=0)
for _kind in ("process-kill", "engine-kill", "pod-kill", "service-restart"):
    _fault(_kind, _FEWER_PROCESSES, lasts_s=_until_restarted)(_down)
_fault("pod-failure", Shown(metrics.CPU_USAGE, "fall", 0.5))(_down)


def _lost(_: Parameters) -> Apply:
    def apply(world: World, service: int, _: Calibration) -> None:
        world.down[service] = world.gone[service] = True

    return apply


_fault(
    "node-loss",
    Shown(metrics.CPU_USAGE, "silence", 0.5),
    lasts_s=_until_back_and_restarted,
    needs="nodes",
    node=True,
)(_lost)


@_fault(
    "accelerator-throttle", Shown(metrics.CPU_THROTTLED, "rise", 0.3), Shown(metrics.INTER_TOKEN_LATENCY_MEAN, "rise")
)
def _throttle(parameters: Parameters) -> Apply:
    """A CPU engine with a part of its quota: what always runs takes its part first, the engine's steps the rest."""

    def apply(world: World, service: int, calibration: Calibration) -> None:
        host, fraction = calibration.host_of(service), float(parameters["fraction"])
        world.quota[service] *= fraction
        if host.cores and host.cpu_per_work_s:
            left = host.cores * world.quota[service] - host.cpu_idle
            fraction = min(1.0, max(left / host.cpu_per_work_s, LEAST_SHARE * fraction))
        world.host[service] *= fraction

    return apply


_CLOCK = Shown(metrics.GPU_SM_CLOCK, "fall", 0.1, quantile=0.9)


@_fault("gpu-clock-lock", _CLOCK, Shown(metrics.INTER_TOKEN_LATENCY_MEAN, "rise", 0.1), needs="GPU")
def _clock(parameters: Parameters) -> Apply:
    def apply(world: World, service: int, calibration: Calibration) -> None:
        gpu = gpu_of(calibration)
        wanted = parameters.get("mhz") or float(parameters.get("fraction") or 1) * gpu.max_clock
        world.clock_cap[service] = min(world.clock_cap[service], max(float(wanted), gpu.min_clock))
        world.compute[service] *= speed_at(gpu, world.clock_cap[service])

    return apply


@_fault("gpu-power-limit", _CLOCK, Shown(metrics.INTER_TOKEN_LATENCY_MEAN, "rise", 0.1), needs="GPU")
def _power(parameters: Parameters) -> Apply:
    def apply(world: World, service: int, calibration: Calibration) -> None:
        gpu = gpu_of(calibration)
        fraction = parameters.get("fraction")
        wanted = float(fraction) * gpu.limit_w if fraction else float(parameters["watts"])
        world.power_cap[service] = min(world.power_cap[service], max(wanted, gpu.min_limit_w))
        world.compute[service] *= speed_at(gpu, clock_within(gpu, world.power_cap[service]))

    return apply


@_fault("gpu-contention", Shown(metrics.INTER_TOKEN_LATENCY_MEAN, "rise", 0.1), needs="GPU")
def _contention(parameters: Parameters) -> Apply:
    """Another process on the same GPU: while both have work, each gets half of the time."""

    def apply(world: World, service: int, calibration: Calibration) -> None:
        gpu_of(calibration)
        world.intruder[service] = max(world.intruder[service], float(parameters["duty_percent"]) / 200)

    return apply


@_fault("gpu-memory", Shown(metrics.GPU_MEMORY_USED, "rise", 0.02), needs="GPU")
def _gpu_memory(parameters: Parameters) -> Apply:
    def apply(world: World, service: int, calibration: Calibration) -> None:
        gpu_of(calibration)
        world.gpu_memory[service] += float(parameters["size_mb"]) * MIB

    return apply


@_fault("kv-cache-squeeze", Shown(metrics.KV_CACHE_USAGE, "rise", 0.3))
def _squeeze(parameters: Parameters) -> Apply:
    """Another client's long prompts hold a part of the KV cache."""
    wanted = float(parameters["concurrency"]) * (
        float(parameters["prompt_tokens"]) + float(parameters["output_tokens"])
    )

    def apply(world: World, service: int, calibration: Calibration) -> None:
        world.kv_share[service] = min(world.kv_share[service], max(0.02, 1 - wanted / calibration.engine.kv_tokens))

    return apply


@_fault(ROLLOUT, Shown(metrics.INTER_TOKEN_LATENCY_MEAN, "rise"))
def _bad_rollout(parameters: Parameters) -> Apply:
    """It begins when the rollout has ended: that the service was loaded anew is not part of it."""

    def apply(world: World, service: int, _: Calibration) -> None:
        world.step_factor[service] *= float(parameters["step_factor"])

    return apply


@_fault("telemetry-loss", Shown(metrics.CPU_USAGE, "silence", 0.5))
def _telemetry_loss(_: Parameters) -> Apply:
    def apply(world: World, service: int, _: Calibration) -> None:
        world.scraped[service] = False

    return apply


def gpu_of(calibration: Calibration) -> GpuModel:
    """Return the GPU. Raises FaultError: the calibration has none."""
    if calibration.gpu is None:
        raise FaultError(f"the calibration {calibration.name} has no GPU")
    return calibration.gpu


def unable(deploy: StackParams, kind: str) -> str | None:
    """Return why a stack of these parameters cannot have a fault of ``kind``, None when it can."""
    assert isinstance(deploy, SimulatedDeployParams)
    needs = FAULTS[kind].needs
    if not needs or read_calibration(deploy.calibration).gpu is not None:
        return None
    other = ", ".join(name for name in shipped() if read_calibration(name).gpu is not None)
    lacks = "has none" if needs == "GPU" else "has one machine for all"
    what = "a GPU" if needs == "GPU" else "a stack of several nodes"
    return f"{kind} needs {what}; deploy.calibration '{deploy.calibration}' {lacks}; with: {other}"


class SimulatedTarget(FaultTarget):
    """A service of a stack that exists only while a case is made."""

    backend: Literal["simulated"] = "simulated"
    service: str

    @property
    def name(self) -> str:
        return self.service

    @property
    def stack_alive(self) -> bool:
        return False

    @property
    def gone(self) -> bool:
        return True

    def identities(self) -> frozenset[str]:
        return frozenset()


class NothingToUndo(UndoStepBase[SimulatedTarget]):
    step: Literal["nothing"] = "nothing"

    def undo(self, target: SimulatedTarget) -> None:
        """A simulated fault ends with its case."""

    def left(self, target: SimulatedTarget) -> list[str]:
        return []


class SimulatedExecutor(FaultExecutor[SimulatedTarget, Any]):
    """Says that a kind exists on this backend; its physics are in ``FAULTS``. There is no live stack to act on."""

    defaults: ClassVar[Mapping[str, Any]] = {}
    criterion = "see the kind"

    def undo_steps(self) -> tuple[NothingToUndo, ...]:
        return (NothingToUndo(),)

    def apply(self, run_for_s: float) -> str:
        raise FaultError("a simulated fault acts only within a simulated case: there is no live stack")

    def probe(self) -> Probe:
        raise FaultError("a simulated fault acts only within a simulated case: there is no live stack")

    def shows_effect(self, before: float, during: float) -> bool:
        return False


def _target(_: Any, service: str) -> SimulatedTarget:
    return SimulatedTarget(service=service)


SUPPORT = FaultSupport(
    target_model=SimulatedTarget,
    steps=TypeAdapter(tuple[NothingToUndo, ...]),
    target=_target,
    residue=lambda _: [],
    sweep=lambda _: ([], []),
    unable=unable,
    executors={
        kind: type(f"Simulated{i}", (SimulatedExecutor,), {"defaults": fault.defaults or {}})
        for i, (kind, fault) in enumerate(sorted(FAULTS.items()))
    },
)
"""``residue`` and ``sweep`` find nothing: no simulated fault outlives its case."""
