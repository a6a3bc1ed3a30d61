"""The only composer: order, budget, resume, and the only caller that opens the hold-out."""

from metier.road.assess import Assessed, assess_project
from metier.road.before import Planned, plan_project
from metier.road.check import Checked, check_project
from metier.road.erase import Erasure, erase_subject
from metier.road.inspect import Diagnosis, ShownRow, Status, diagnose, history_of, open_chat, read_status, show_row
from metier.road.label import Imported, export_tasks, import_votes, report_votes
from metier.road.progress import Progress, Tick, Watcher
from metier.road.run import Pages, open_session, run_road
from metier.road.setaside import SetAside, curate_project
from metier.road.tune_verb import Tuned, tune_project
from metier.road.verify import Verified, verify_project

__all__ = [
    "Assessed",
    "Checked",
    "Diagnosis",
    "Imported",
    "Pages",
    "Erasure",
    "Planned",
    "Progress",
    "SetAside",
    "ShownRow",
    "Status",
    "Tick",
    "Tuned",
    "Verified",
    "Watcher",
    "assess_project",
    "check_project",
    "curate_project",
    "diagnose",
    "erase_subject",
    "export_tasks",
    "history_of",
    "import_votes",
    "open_chat",
    "open_session",
    "plan_project",
    "read_status",
    "report_votes",
    "run_road",
    "show_row",
    "tune_project",
    "verify_project",
]
