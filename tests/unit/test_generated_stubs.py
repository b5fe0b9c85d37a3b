"""The checked-in stubs are what `scripts/generate-stubs` makes of proto/, and they are typed."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(
        [ROOT / "scripts" / "generate-stubs", tmp_path], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    fresh, checked_in = tmp_path / "logcluster", ROOT / "logcluster" / "wire" / "gen" / "logcluster"
    names = sorted(
        path.relative_to(folder).as_posix()
        for folder in (fresh, checked_in)
        for path in folder.rglob("*.py*")
        if "__pycache__" not in path.parts
    )
    _, different, missing = filecmp.cmpfiles(fresh, checked_in, sorted(set(names)), shallow=False)
    assert (different, missing) == ([], [])


def test_services_follow_the_style_rules() -> None:
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
    if buf is None:
        pytest.skip("buf is not installed")
    result = subprocess.run([buf, "lint", "."], cwd=ROOT / "proto", capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


PLANTED = """
from typing import cast
import grpc.aio
from logcluster.wire.gen.logcluster.v1.data_pb2 import {request}
from logcluster.wire.gen.logcluster.v1.data_pb2_grpc import DataServiceStub

async def call(channel: grpc.aio.Channel) -> None:
    await DataServiceStub(channel).Produce({request}())
"""


@pytest.mark.parametrize(("request_type", "accepted"), [("ProduceRequest", True), ("FetchRequest", False)])
@pytest.mark.timeout(180)
def test_a_wrong_request_type_fails_type_checking(tmp_path: Path, request_type: str, accepted: bool) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(PLANTED.format(request=request_type))
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(planted)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode == 0) == accepted, result.stdout
    if not accepted:
        assert "incompatible type" in result.stdout
