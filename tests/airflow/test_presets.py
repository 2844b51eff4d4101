"""Every preset, on top of ``params.yaml``, is a campaign that all registries accept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.commands.check import check_params
from tasks.params import overridden, read_document, validated

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("preset", sorted((ROOT / "dags" / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_preset_is_a_campaign(preset: Path) -> None:
    document = overridden(read_document(ROOT / "params.yaml"), read_document(preset))
    check_params(validated(document, preset.stem), preset.stem)
