"""The only composer: order, budget, resume, and the only caller that opens the hold-out."""

from metier.road.before import Assessed, Planned, assess_project, plan_project
from metier.road.check import Checked, check_project
from metier.road.inspect import Diagnosis, ShownRow, Status, diagnose, open_chat, read_status, show_row
from metier.road.progress import Progress, Tick, Watcher
from metier.road.run import open_session, run_road
from metier.road.verify import Verified, verify_project

__all__ = [
    "Assessed",
    "Checked",
    "Diagnosis",
    "Planned",
    "Progress",
    "ShownRow",
    "Status",
    "Tick",
    "Verified",
    "Watcher",
    "assess_project",
    "check_project",
    "diagnose",
    "open_chat",
    "open_session",
    "plan_project",
    "read_status",
    "run_road",
    "show_row",
    "verify_project",
]
