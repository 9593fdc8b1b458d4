"""BERT_BASE on eight devices, by the experiment that shows it at full width."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_narrow_bert_base_with_codes_takes_a_step_on_eight_devices(tmp_path):
    script, out = "experiments/bert_base_step.py", tmp_path / "step.json"
    words = ["--width=0.0625", "--configs=bert_base_sst2", f"--out={out}"]
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    env = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, script, *words], check=True, cwd=ROOT, env=env)
    [row] = json.loads(out.read_text())["rows"]
    assert row["devices"] == row["sentences"] == 8 and math.isfinite(row["loss"])
    assert row["arrays_that_moved"] == row["arrays"]
    assert row["equal_on_all_devices"]
