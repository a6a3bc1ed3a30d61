"""The project and its finished run are those of the road's tests."""

from tests.road.conftest import cache_dir, fresh, keyed_project, lean, lean_project, on_one_core

__all__ = ["cache_dir", "fresh", "keyed_project", "lean", "lean_project", "on_one_core"]
