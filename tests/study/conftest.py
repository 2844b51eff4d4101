from __future__ import annotations

from pathlib import Path

import pytest

from tasks.params import ScoreParams
from tasks.study.data import StudyData, read_data
from tasks.study.plan import Study, read_study
from tests.report.scores import YARDSTICK
from tests.study.campaigns import METHOD, RANKERS, write_study

BASE = ScoreParams(methods=("random",), profile="paper")
STUDY = f"""
method: {METHOD}
development: [dev]
unseen: ["n*"]
methods: [{", ".join(name for name in RANKERS if name != YARDSTICK)}]
variants:
  no eyes: {{parameters: {{direction: up}}}}
times:
  10 s late: {{offset_s: 10}}
timed: [nsigma, baro]
versions:
  first: {{seen: ["dev"], scores: older}}
  second: {{seen: [dev, new]}}
template: page.md.j2
page: out/page.md
figures: out/img
figures_at_most: 2
"""
TEMPLATE = """# Title
{{ t.n("unseen") }} cases; `{{ t.method }}`: {{ t.ac1(t.method, "unseen") }}.

{{ t.overview("unseen") }}

{{ figures("unseen") }}
"""


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two scored campaigns, a study file and its template."""
    root = tmp_path_factory.mktemp("study")
    write_study(root, variants=("no eyes",), times=("10 s late",), older="older")
    (root / "study.yaml").write_text(STUDY)
    (root / "page.md.j2").write_text(TEMPLATE)
    return root


@pytest.fixture(scope="session")
def study(root: Path) -> Study:
    return read_study(root / "study.yaml", BASE)


@pytest.fixture(scope="session")
def data(study: Study, root: Path) -> StudyData:
    return read_data(study, root / "place")
