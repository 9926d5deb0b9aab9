"""Layers as one compiled operation each in the engine's Python: the bits of the operations one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.random_llama import TINY, random_llama
from tests.integration.test_failures import run_engine_python

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_joined_layers_give_the_bits_of_their_operations(engine_python: Path, tmp_path: Path, dtype: str) -> None:
    """Prompts, also behind a prefix, and decodes; what the operation does not compute goes SGLang's way."""
    model = random_llama(engine_python, tmp_path, TINY)
    script = Path(__file__).with_name("cpu_model_check.py")
    done = run_engine_python(engine_python, [str(script), str(model), dtype], AUTELLIX_POLICY="off")
    assert done.returncode == 0, done.stderr[-2000:]
    compared, ordinary = map(int, done.stdout.splitlines()[-1].split())
    assert compared == 2 * 7 + 2
    assert ordinary == 4 * 18
