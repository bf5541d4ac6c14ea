"""Asks a public database whether the pinned packages have known vulnerabilities; says so if it cannot be reached."""

import re
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parents[1] / "requirements.txt"
NOT_REACHED = re.compile(
    r"ConnectionError|ConnectTimeout|Connection refused|Name or service not known|resolve|certificate|proxy|"
    r"Max retries|Failed to fetch|HTTPError|Timed out|error sending request",
    re.IGNORECASE,
)


def main() -> int:
    """0: nothing known. 1: something is. 3: nobody could be asked."""
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv) if uv.exists() else "uv", "tool", "run", "pip-audit", "--requirement", str(PINS)]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "20"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        said = done.stdout + done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        done, said = None, f"ConnectionError: {error}"
    if done is not None and done.returncode == 0:
        print(f"audit: nothing is known against the {len(PINS.read_text().splitlines())} pins")
        return 0
    if "Found " not in said and NOT_REACHED.search(said):
        last = (said.strip().splitlines() or ["nothing said"])[-1]
        print(f"audit: not done, the database (or pip-audit itself) is not reachable: {last[:200]}")
        return 3
    print(said.strip())
    return 1


if __name__ == "__main__":
    sys.exit(main())
