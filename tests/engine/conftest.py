import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # toy_method, shared with the subprocesses of the kill test
