"""Replays the transcripts beside this file; LOGCLUSTER_REWRITE_GOLDEN=1 writes them anew, to be read as a diff.

A transcript holds `# comments`, `> commands` and, below each command, what the quorum did.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from raft_theatre import Theatre

TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


def replay(text: str) -> str:
    theatre = Theatre()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            lines.append(line)
        elif line.startswith("> "):
            if lines and not lines[-1].startswith("#"):
                lines.append("")
            lines.append(line)
            lines.extend(f"  {happened}" for happened in theatre.play(line.removeprefix("> ")))
        elif not line and lines and lines[-1].startswith("#"):
            lines.append("")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript_plays_out_as_written(path: Path) -> None:
    text = path.read_text()
    played = replay(text)
    if os.environ.get("LOGCLUSTER_REWRITE_GOLDEN") == "1":
        path.write_text(played)
    assert played == path.read_text()


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 9
