"""What the client processes of a chaos run do. One file each, and a line in `WORKLOADS`; begin with worker.py.

Another workload is a file with a `Worker` and its `Options`, and its name here.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from chaos.workloads.admin import AdminWorker
from chaos.workloads.append import AppendWorker
from chaos.workloads.drain import DrainWorker
from chaos.workloads.group import GroupWorker
from chaos.workloads.offsets import OffsetsWorker
from chaos.workloads.probe import ProbeWorker
from chaos.workloads.read import ReadWorker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chaos.workloads.worker import Worker

WORKLOADS: Final[Mapping[str, type[Worker]]] = MappingProxyType(
    {
        "admin": AdminWorker,
        "append": AppendWorker,
        "drain": DrainWorker,
        "group": GroupWorker,
        "offsets": OffsetsWorker,
        "probe": ProbeWorker,
        "read": ReadWorker,
    }
)
