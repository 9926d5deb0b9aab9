"""Makes the helpers beside these tests importable, and those of the gateway's."""

import sys
from pathlib import Path

sys.path.extend([str(Path(__file__).parent), str(Path(__file__).parents[1] / "gateway")])
