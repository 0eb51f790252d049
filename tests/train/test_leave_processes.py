import os
import subprocess
import sys

import pytest

SCRIPT = """
import atexit
import sys
import torch.distributed as dist
from moezoo.train.device import leave_processes

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
dist.barrier()
atexit.register(print, "torn down")
print("work done", end=" ")
leave_processes()
print("alone", dist.is_initialized(), end=" ")
"""


@pytest.mark.skipif(os.name == "nt", reason="the store of the test is a file")
def test_the_main_process_goes_on_and_the_others_end_without_a_teardown(tmp_path):
    """A gloo thread that still holds a tensor when the interpreter is torn down aborts the process."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=120)[0].strip() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert said == ["work done alone False torn down", "work done"]
