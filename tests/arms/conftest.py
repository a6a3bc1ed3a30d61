"""A real server for the tests of the endpoint arm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.arms.endpoint_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()
