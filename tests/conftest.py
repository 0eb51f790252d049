"""One loopback Hub for the session, up before huggingface_hub is imported, which reads its settings once."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest
from loopback_hub import LoopbackHub

_hub = LoopbackHub()
_home = tempfile.mkdtemp(prefix="moezoo-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ.update(
    HF_ENDPOINT=_hub.endpoint,
    HF_HOME=_home,
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    NO_PROXY="127.0.0.1,localhost",
    OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"),  # two test processes share the cores
)
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
    os.environ.pop(_name, None)


@pytest.fixture
def hub():
    """The loopback Hub, empty."""
    _hub.reset()
    yield _hub
    _hub.reset()
