"""All dashboards; `deploy/grafana/generate.py` renders them into files."""

from __future__ import annotations

from typing import Final

from logcluster.metrics.dashboard_nodes import CLUSTER, NODES
from logcluster.metrics.dashboard_roles import GROUPS, QUORUM, TOPICS

DASHBOARDS: Final = (CLUSTER, NODES, QUORUM, GROUPS, TOPICS)
