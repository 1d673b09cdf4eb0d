"""The stages of dvc.yaml, one thin script each."""

import sys
from pathlib import Path

# The library of this very checkout: an experiment in a temporary folder, or one queued before the code changed,
# must not run the code of the folder that the package happens to be installed from.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
