"""Thousands of requests that no client should send, to a gateway before a real llama-server. By default 5,000.

Usage: fuzz.py [REQUESTS]. The same as tests/proxy/test_fuzz.py, which sends 500 of them in every test run.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    requests = sys.argv[1] if len(sys.argv) > 1 else "5000"
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:logging", "tests/proxy/test_fuzz.py"]
    env = {**os.environ, "FUZZ_REQUESTS": requests}
    ended = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    told = [line for line in ended.stdout.splitlines() if " requests: " in line or "passed" in line]
    print("\n".join(told) if ended.returncode == 0 else ended.stdout)
    print(f"{time.monotonic() - began:.0f} s")
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main())
