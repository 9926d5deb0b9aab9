from pathlib import Path
FOLDER = "autellix-cpu-ops"
def library(folder: Path) -> Path: return folder / "x.so"
