"""Check the pinned packages for known vulnerabilities with pip-audit; exit code 3 if its database is not reachable."""

import re
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parents[1] / "requirements.txt"
UNREACHABLE = re.compile(
    r"ConnectionError|ConnectTimeout|Connection refused|Name or service not known|resolve|certificate|proxy|"
    r"Max retries|Failed to fetch|HTTPError|Timed out|error sending request",
    re.IGNORECASE,
)


def main() -> int:
    """Return 0 without known vulnerabilities, 1 with some, and 3 if the database is not reachable."""
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv) if uv.exists() else "uv", "tool", "run", "pip-audit", "--requirement", str(PINS)]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "20"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        output = result.stdout + result.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        result, output = None, f"ConnectionError: {error}"
    if result is not None and result.returncode == 0:
        print(f"audit: no known vulnerabilities in {len(PINS.read_text().splitlines())} pinned packages")
        return 0
    if "Found " not in output and UNREACHABLE.search(output):
        last = (output.strip().splitlines() or ["no output"])[-1]
        print(f"audit: skipped, the database or pip-audit is not reachable: {last[:200]}")
        return 3
    print(output.strip())
    return 1


if __name__ == "__main__":
    sys.exit(main())
