"""Makes the processes beside these tests importable."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.extend([str(HERE), str(HERE.parents[1] / "engine"), str(HERE.parent)])
