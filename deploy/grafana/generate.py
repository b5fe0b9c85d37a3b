"""Write the dashboards of `logcluster.metrics.dashboards` as JSON beside this file, for Grafana to import or provision.

    python deploy/grafana/generate.py [--check]

`--check` writes nothing and fails when a file is not what would be written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from logcluster.metrics.dashboards import DASHBOARDS

FOLDER = Path(__file__).parent


def contents() -> dict[Path, str]:
    """What belongs into each file."""
    return {
        FOLDER / f"{dashboard.name}.json": json.dumps(dashboard.render(), indent=2, ensure_ascii=False) + "\n"
        for dashboard in DASHBOARDS
    }


def stale() -> list[Path]:
    """Files that are missing, not up to date, or not ours."""
    wanted = contents()
    differing = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    return sorted([*differing, *(path for path in FOLDER.glob("*.json") if path not in wanted)])


def main(arguments: list[str]) -> int:
    """Write or check; returns the exit code."""
    if "--check" in arguments:
        for path in stale():
            print(f"{path} is not up to date: run python {Path(__file__).name}", file=sys.stderr)
        return 1 if stale() else 0
    for path, text in contents().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
