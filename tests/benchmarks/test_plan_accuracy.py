from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from exaone_export.exporter.plan.deployment import read_deployment
from exaone_export.planning.memory_plan import MemoryPlan
from tests.conftest import ROOT, TINY

MIB = 2**20


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import plan_accuracy

    return plan_accuracy


def test_the_parent_stays_small() -> None:
    """What it holds would be counted into its children's peak."""
    code = "import sys; sys.path.insert(0, 'benchmarks'); import plan_accuracy; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_a_childs_peak_is_measured(script: ModuleType) -> None:
    code = "import subprocess, sys; sys.path.insert(0, 'benchmarks'); import plan_accuracy as p\n"
    code += "print(p.peak('-c', 'pass'), p.peak('-c', 'bytearray(b\"1\") * (100 << 20)'))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    nothing, much = map(int, result.stdout.split())
    assert 95 * MIB < much - nothing < 105 * MIB
    with pytest.raises(RuntimeError, match="broken"):
        script.peak("-c", "raise SystemExit('broken')")


def test_a_configuration_is_planned_in_a_child(script: ModuleType) -> None:
    configuration = script.Configuration("tiny", "1.2b", "ort-cpu", "int4", 512, batch=2)
    deployment = read_deployment(TINY, precision="int4", max_length=512, batch=2)
    assert script.plan(configuration, TINY) == MemoryPlan.of(deployment).to_dict()


def test_the_table_shows_the_error(script: ModuleType) -> None:
    row = script.Row("1.2b-int4", "run", planned=2**30, measured=5 * 2**28)
    assert row.error == pytest.approx(-0.2)
    assert script.table([row]).splitlines()[-1] == "| 1.2b-int4 | run | 1.00 | 1.25 | -20.0% |"


def test_there_are_six_configurations_and_both_sizes(script: ModuleType) -> None:
    names = [configuration.name for configuration in script.CONFIGURATIONS]
    assert len(set(names)) == len(names) == 6
    assert {configuration.shape for configuration in script.CONFIGURATIONS} == {"1.2b", "32b"}


def test_plans_are_near_what_was_measured_on_a_gpu(script: ModuleType) -> None:
    rows = script.recorded()
    assert len(rows) == 2
    for row in rows:
        assert abs(row.error) < 0.05, row
