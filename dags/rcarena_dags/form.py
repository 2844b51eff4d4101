"""The forms of the DAGs: one schema per field, and what a filled form means in the words of ``params.yaml``.

A field that is left empty keeps the value of the preset. Limits are those of the parameters; what only registries know
(fault kinds, methods) is checked by the first tasks, before anything is deployed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import yaml
from airflow.sdk import Param

from rcarena_dags.parameters import bounds, limits, section
from rcarena_dags.settings import settings, use_repository

WORD = r"^[a-z][a-z0-9_-]*$"
SERVICE = r"^[a-z0-9][a-z0-9-]*$"
POLICY = r"^[a-z][a-z0-9-]*(:[A-Za-z0-9_.@-]+)?$"
AS_IN_PARAMS = "params"
"""The preset that changes nothing."""
RECOVERY = "recovery"
"""The preset of the experiment with actions."""

FAULT = {
    "type": "object",
    "properties": {
        "kind": {"type": "string", "pattern": WORD},
        "targets": {"type": "array", "items": {"type": "string", "pattern": SERVICE}, "minItems": 1},
        "parameters": {"type": "object"},
        "ladder": {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}},
    },
    "required": ["kind", "targets"],
    "additionalProperties": False,
}


def presets() -> list[str]:
    """Return the names of the stacks that a form may choose: files of the folder ``presets``, and ``params``."""
    return [AS_IN_PARAMS, *sorted(path.stem for path in settings().presets.glob("*.yaml"))]


def _base() -> list[dict[str, Any]]:
    """Read ``params.yaml`` and the presets for what forms propose; what cannot be read fails in a run, not here."""
    documents = []
    for path in (settings().params_file, *sorted(settings().presets.glob("*.yaml"))):
        with contextlib.suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
            documents += [document] if isinstance(document, dict) else []
    return documents


def _known_methods() -> list[str]:
    return sorted({method for each in _base() for method in (each.get("score") or {}).get("methods") or ()})


def _known_targets() -> list[str]:
    return sorted({target for each in _base() for target in _targets(each.get("inject") or {})})


def _targets(inject: Mapping[str, Any]) -> set[str]:
    return {target for fault in inject.get("faults") or () for target in fault.get("targets") or ()}


def campaign_form() -> dict[str, Param]:
    return {
        "name": name("by-hand"),
        "workspace": optional(
            "string",
            pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$",
            description="Folder of the campaign on the volume; empty: its name. Finished cases in it are not repeated.",
        ),
        "preset": Param(
            AS_IN_PARAMS,
            type="string",
            enum=presets(),
            description="Which stack: a file of dags/presets, put on top of params.yaml.",
        ),
        **experiment(),
        **stack(),
        "profile": optional(
            "string",
            enum=[None, *limits("score.profile")["enum"]],
            description="Telemetry that the methods may see: what the paper used, or every metric of the case.",
        ),
        "methods": optional(
            "array",
            items={"type": "string", "pattern": WORD},
            minItems=1,
            examples=_known_methods(),
            description="RCA methods, as `rcarena methods` lists them; empty: those of the preset.",
        ),
        **flags(),
    }


def optional(kind: str, description: str, **schema: Any) -> Param:
    """Return a field that may be left empty."""
    return Param(None, type=["null", kind], description=description, **schema)


def name(default: str) -> Param:
    return Param(
        default,
        **limits("campaign.name"),
        title="Campaign",
        description="Campaigns of one name are compared with each other. Small letters, digits and hyphens.",
    )


def experiment() -> dict[str, Param]:
    return {
        "faults": optional(
            "array",
            items=FAULT,
            description='One case per target and repetition: [{"kind": "cpu-stress", "targets": ["ray-replicas-0"], '
            '"parameters": {"workers": 2}}]. Not touched: those of the preset, with its concurrent faults and '
            "scenarios. A list that is empty: only fault-free cases.",
        ),
        "targets": optional(
            "array",
            items={"type": "string", "pattern": SERVICE},
            minItems=1,
            examples=_known_targets(),
            description="Only faults on these services, one at a time; empty: on all that the faults name.",
        ),
        "repetitions": optional("integer", "Of every fault on every target.", **bounds("campaign.repetitions")),
        "fault_free_cases": optional("integer", "Cases without any fault.", **bounds("campaign.fault_free_cases")),
        "windows": optional(
            "object",
            properties=section("campaign.windows"),
            additionalProperties=False,
            description='Seconds of each phase of a case: {"warmup_s": 5, "baseline_s": 22, "fault_s": 22, '
            '"recovery_s": 8}; what is left out stays.',
        ),
        "seed": optional("integer", "Seed of load and plan.", **bounds("campaign.seed")),
        "cases_per_pod": optional(
            "integer",
            "Of cases that are computed, how many a pod makes; empty: as many as take two minutes.",
            **bounds("campaign.cases_per_pod"),
        ),
    }


def stack() -> dict[str, Param]:
    return {
        "load_rate": optional("number", "Requests per second.", **bounds("load.rate")),
        "replicas": optional("integer", "Replicas of the model.", **bounds("deploy.replicas")),
        "tensor_parallel": optional(
            "integer", "GPUs that share each layer (Kubernetes).", **bounds("deploy.parallelism.tensor")
        ),
        "pipeline_parallel": optional(
            "integer", "Pods that a replica spans (Kubernetes).", **bounds("deploy.parallelism.pipeline")
        ),
    }


def flags() -> dict[str, Param]:
    return {
        "keep_stack": Param(False, type="boolean", description="Leave the stack up at the end; faults are undone."),
        "record": Param(True, type="boolean", description="Version the campaign with DVC on the results branch."),
        "may_miss": Param(
            0,
            type="integer",
            minimum=0,
            maximum=1000,
            description="Cases that may fail, all attempts included, without the run being red. All others are "
            "recorded in any case.",
        ),
        "dry_run": Param(False, type="boolean", description="Plan, check the parameters and the cluster, then stop."),
    }


def nightly_form() -> dict[str, Param]:
    own = campaign_form()
    for key in ("workspace", "keep_stack", "record", "dry_run"):
        del own[key]
    return {**own, "name": name("nightly")}


def smoke_form() -> dict[str, Param]:
    """Return the form of a sweep: a campaign without faults per entry of ``sweep``."""
    own = nightly_form()
    for key in (
        "faults",
        "targets",
        "replicas",
        "tensor_parallel",
        "pipeline_parallel",
        "profile",
        "methods",
        "repetitions",
    ):
        del own[key]
    parallelism = {f"{name}_parallel": own for name, own in section("deploy.parallelism").items()}
    sizes = {"replicas": limits("deploy.replicas"), **parallelism}
    return {
        **own,
        "name": Param("smoke", type="string", pattern=r"^[a-z0-9][a-z0-9-]{0,40}$", description="Start of the names."),
        "fault_free_cases": Param(
            3, **{**limits("campaign.fault_free_cases"), "minimum": 1}, description="Cases of each setting."
        ),
        "sweep": Param(
            [{"replicas": 1}, {"replicas": 2}, {"replicas": 3}],
            type="array",
            minItems=1,
            items={"type": "object", "properties": sizes, "minProperties": 1, "additionalProperties": False},
            description="Settings of parallelism, one campaign each, one after the other: replicas, tensor_parallel, "
            "pipeline_parallel.",
        ),
        "record": Param(True, type="boolean", description="Version each campaign with DVC on the results branch."),
    }


def sweep_changes(form: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what each campaign of a sweep changes in the form: its name, its parallelism, no faults."""
    return [
        {
            "name": "-".join([form["name"], *(f"{key[0]}{setting[key]}" for key in sorted(setting, reverse=True))]),
            "faults": [],
            "methods": ["random"],
            **setting,
        }
        for setting in form["sweep"]
    ]


def case_form() -> dict[str, Param]:
    return {
        "name": name("by-hand"),
        "workspace": Param("by-hand", type="string", description="Folder of the campaign on the volume."),
        "case": Param(
            "case-000000000000",
            type="string",
            pattern=r"^case-[0-9a-f]{12}$",
            description="A case id of the campaign, as `rcarena plan` lists them.",
        ),
        "attempt": optional(
            "string",
            pattern=r"^[a-z0-9][a-z0-9-]{0,40}$",
            description="Name of this attempt; empty: made from the run.",
        ),
        "asked_by": optional("object", description="The campaign's task that waits; by hand: empty."),
        "run": optional("string", description="Label of the pods of the campaign; by hand: empty."),
    }


def diagnose_form() -> dict[str, Param]:
    campaign = campaign_form()
    return {
        "name": name("incidents"),
        "workspace": campaign["workspace"],
        "preset": campaign["preset"],
        "endpoints": optional(
            "object",
            description="What of the section deploy differs, such as where the telemetry is: "
            '{"prometheus": {"url": "http://prometheus.monitoring:9090"}}. A secret is never a parameter.',
        ),
        "since": Param(
            "30m",
            type="string",
            pattern=r"^\d+(\.\d+)?[smh]?$",
            description="How far back to look for a change: 90s, 30m, 2h.",
        ),
        "at": optional(
            "string",
            format="date-time",
            pattern=r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d",
            description="When it began, if that is known; else the change is looked for.",
        ),
        "methods": campaign["methods"],
    }


def diagnose_document(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a diagnosis asks for. Raises ParamsError: a file cannot be read."""
    use_repository()
    from tasks.params import overridden

    methods = {"diagnose": {"methods": form["methods"]}} if form["methods"] else {}
    return overridden(_preset(form), {"deploy": form["endpoints"] or {}, **methods})


def remediation_form() -> dict[str, Param]:
    """Return the form of the experiment with actions: a campaign, the policies, the evidence that they wait for."""
    own = campaign_form()
    for key in ("keep_stack", "may_miss", "dry_run", "profile", "methods", "tensor_parallel", "pipeline_parallel"):
        del own[key]
    return {
        **own,
        "name": name("recovery"),
        "preset": Param(
            RECOVERY if RECOVERY in presets() else AS_IN_PARAMS,
            type="string",
            enum=presets(),
            description="Which campaign: a file of dags/presets, put on top of params.yaml; its cases are computed.",
        ),
        "policies": optional(
            "array",
            items={"type": "string", "pattern": POLICY},
            minItems=1,
            description="Who decides on actions, such as none, platform, table:peerwise, oracle (none must be there); "
            "empty: those of the preset.",
        ),
        "evidence_s": optional(
            "number", "Seconds of telemetry between alarm and diagnosis.", **bounds("remediate.evidence_s")
        ),
        "record": Param(
            False,
            type="boolean",
            description="Version the results with the campaign of the same folder, which must have been run there.",
        ),
    }


def remediation_document(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the experiment that ``form`` asks for. Raises ParamsError as ``document``."""
    asked = document(form)
    from tasks.params import overridden

    chosen = _given({key: form[key] for key in ("policies", "evidence_s")})
    return overridden(asked, {"remediate": {"enabled": True, **chosen}})


def _preset(form: Mapping[str, Any]) -> dict[str, Any]:
    from tasks.params import overridden, read_document

    base = read_document(settings().params_file)
    if form["preset"] == AS_IN_PARAMS:
        return base
    return overridden(base, read_document(settings().presets / f"{form['preset']}.yaml"))


def document(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that ``form`` asks for: ``params.yaml``, the preset, the fields that are filled in.

    Raises:
        ParamsError: a file cannot be read, or no fault has one of ``targets``.
    """
    use_repository()
    from tasks.params import overridden

    filled = overridden(_preset(form), overrides(form))
    return filled if form.get("targets") is None else _narrowed(filled, set(form["targets"]))


def _narrowed(document: dict[str, Any], targets: set[str]) -> dict[str, Any]:
    from tasks.errors import ParamsError

    inject = document["inject"]
    there = _targets(inject)
    if unknown := sorted(targets - there):
        raise ParamsError([f"targets: no fault has {', '.join(unknown)} (they have {', '.join(sorted(there))})"])
    faults = [
        {**fault, "targets": kept}
        for fault in inject["faults"]
        if (kept := [each for each in fault["targets"] if each in targets])
    ]
    return {**document, "inject": {"faults": faults}}


def overrides(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the filled fields of ``form`` say, by section of the parameters."""
    parallelism = {"tensor": form.get("tensor_parallel"), "pipeline": form.get("pipeline_parallel")}
    others = None if form["faults"] is None else []
    of_campaign = ("name", "seed", "repetitions", "fault_free_cases", "windows", "cases_per_pod")
    sections: dict[str, dict[str, Any]] = {
        "campaign": {key: form[key] for key in of_campaign},
        "deploy": {"replicas": form["replicas"], "parallelism": _given(parallelism) or None},
        "load": {"rate": form["load_rate"]},
        "inject": {"faults": form["faults"], "concurrent": others, "scenarios": others},
        "score": {key: form.get(key) for key in ("profile", "methods")},
    }
    return {section: given for section, values in sections.items() if (given := _given(values))}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
