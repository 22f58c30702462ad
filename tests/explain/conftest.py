"""The small network, made once for each file."""

import pytest

from tests.explain.small import network


@pytest.fixture(scope="module")
def net():
    return network()
