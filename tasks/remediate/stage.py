"""Writes and reads the files of the experiment below ``remediation``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.params import ScoreParams
from tasks.remediate.tables import alarms, episodes, harm, prevented, refused, sli, summary, windows
from tasks.system.durable import write_durably
from tasks.text import short_p

EPISODES, SLI, TIMELINES, TABLES = "episodes.parquet", "sli.parquet", "timelines.json", "tables.json"

Tables = dict[str, list[dict[str, Any]]]


def publish(rows: Sequence[Mapping[str, Any]], directory: Path, score: ScoreParams) -> Tables:
    """Write the episodes, their timelines and the tables; return the tables as JSON data."""
    directory.mkdir(parents=True, exist_ok=True)
    table = episodes(rows)
    table.to_parquet(directory / EPISODES, index=False)
    sli(rows).to_parquet(directory / SLI, index=False)
    told = [{name: value for name, value in row.items() if name != "sli"} for row in rows]
    write_durably(directory / TIMELINES, json.dumps(told, indent=1).encode())
    samples, confidence, seed = score.bootstrap_samples, score.confidence, score.seed
    found = {
        "summary": summary(table, samples=samples, confidence=confidence, seed=seed),
        "windows": windows(table, samples=samples, confidence=confidence, seed=seed),
        "alarms": alarms(table),
        "harm": harm(table, score.confidence),
        "refused": refused(rows),
        "prevented": prevented(rows),
    }
    tables: Tables = {name: json.loads(each.to_json(orient="records")) for name, each in found.items()}
    write_durably(directory / TABLES, json.dumps(tables, indent=1).encode())
    return tables


def publish_nothing(directory: Path) -> None:
    """Leave a folder that says that no experiment is asked for; DVC cannot version one that is missing."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    write_durably(directory / TABLES, b"{}")


def read_tables(directory: Path) -> Tables | None:
    """Return the tables; None where no experiment was run."""
    try:
        found: Tables = json.loads((directory / TABLES).read_bytes())
    except FileNotFoundError:
        return None
    return found or None


def read_timelines(directory: Path) -> list[dict[str, Any]]:
    """Return the rows of the episodes with what was done and refused; empty where no experiment was run."""
    try:
        rows: list[dict[str, Any]] = json.loads((directory / TIMELINES).read_bytes())
    except FileNotFoundError:
        return []
    return rows


def read_episodes(directory: Path) -> pd.DataFrame:
    """Return the table of episodes. Raises FileNotFoundError."""
    return pd.read_parquet(directory / EPISODES)


def read_sli(directory: Path) -> pd.DataFrame:
    """Return the SLI of every run in steps. Raises FileNotFoundError."""
    return pd.read_parquet(directory / SLI)


def text(tables: Tables) -> str:
    """Return the tables for people."""
    lines = [
        f"{'kind':<22} {'policy':<18} {'cases':>5} {'bad s':>8} {'ratio':>6} {'interval':>13} {'p (Holm)':>8} "
        f"{'MTTM s':>7} {'lasting':>7} {'acted':>5} {'wrong':>7} {'gain':>6}"
    ]
    for row in tables["summary"]:
        interval = "–" if row["ratio_low"] is None else f"{row['ratio_low']:.2f}–{row['ratio_high']:.2f}"
        lines.append(
            f"{row['kind']:<22} {row['policy']:<18} {row['cases']:>5} {row['bad_request_s']:>8.1f} "
            f"{row['ratio']:>6.2f} {interval:>13} {_p(row['p_holm']):>8} {row['mttm_s']:>7.0f} "
            f"{_number(row['lasting_s'], '.0f'):>7} {row['acted']:>5} {row['wrong']:>3}/{row['actions']:<3} "
            f"{_number(row['gain'], '.2f'):>6}"
        )
    for row in tables.get("alarms", []):
        unseen = f"; {row['unseen']} left out: their fault was not seen" if row["unseen"] else ""
        lines.append(
            f"{row['kind']}: {row['pairs']} cases under every policy, in {row['compared']} the alarm sounded{unseen}"
        )
    for row in tables["harm"]:
        lines.append(
            f"{row['scenario']}, {row['policy']}: {row['acted']} of {row['cases']} cases acted on, "
            f"{row['alarms']} alarms, {row['bad_request_s']:.1f} bad request-seconds"
        )
    for row in tables["refused"]:
        lines.append(
            f"{row['policy']}: {row['guard']} refused {row['proposals']} proposals in {row['cases']} cases "
            f"({row['would_be_wrong']} on a healthy service)"
        )
    for row in tables.get("windows", []):
        lines.append(
            f"{row['base']}, {row['evidence_s']:.0f} s of evidence: ratio {row['ratio']:.2f}, "
            f"MTTM {row['mttm_s']:.0f} s, {row['wrong']} of {row['actions']} actions wrong"
        )
    for row in tables.get("prevented", []):
        guards = ", ".join(f"{name} {count}" for name, count in row["guards"].items()) or "none"
        lines.append(
            f"{row['policy']}: acted in {row['acted']} of {row['cases']} cases, {row['wrong']} wrong actions; "
            f"refused by: {guards}"
        )
    return "\n".join(lines)


def _p(value: float | None) -> str:
    return "–" if value is None else short_p(value)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
