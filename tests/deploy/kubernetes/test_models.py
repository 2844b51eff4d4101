from __future__ import annotations

import pytest

from tasks.deploy.kubernetes.models import ModelPreset, model_preset, model_presets
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.serve_config import MANAGED_ENGINE_ARGUMENTS, engine_arguments
from tests.deploy.kubernetes.stacks import stack

PAPER = {"falcon-h1-7b", "llama-3.1-8b", "mistral-7b-v0.3", "qwen2.5-7b", "gemma-2-9b", "phi-4", "falcon-2-11b"}


def test_the_models_of_the_paper_and_a_toy_are_there() -> None:
    assert set(model_presets()) >= PAPER | {"toy-cpu"}
    assert KubernetesDeployParams.model_fields["model"].default == "falcon-h1-7b"
    assert model_preset("falcon-h1-7b").source == "tiiuae/Falcon-H1-7B-Instruct"


@pytest.mark.parametrize("preset", model_presets().values(), ids=str)
def test_presets_make_sense(preset: ModelPreset) -> None:
    assert preset.tensor_parallel[0] == 1
    assert list(preset.tensor_parallel) == sorted(set(preset.tensor_parallel))
    assert preset.volume_gb > 2 * preset.weights_gb
    assert not MANAGED_ENGINE_ARGUMENTS & preset.engine.keys()
    if not preset.runs_on_cpu:
        assert preset.min_gpu_memory_gb * preset.engine["gpu_memory_utilization"] > preset.weights_gb + 3


def test_engine_arguments_of_the_user_win_over_the_presets() -> None:
    params = stack(engine_arguments={"max_num_seqs": 7, "seed": 3})
    arguments = engine_arguments(params, model_preset(params.model))
    assert arguments["max_num_seqs"] == 7
    assert arguments["seed"] == 3
    assert arguments["max_model_len"] == 8192
    assert arguments["tensor_parallel_size"] == 1
