"""Sequence-parallel operators in 2, 3 and 4 gloo processes on this machine against one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo")


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_fft_conv(ranks, tmp_path):
    script = Path(__file__).with_name("distributed_fft_conv.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(script)]
    running = [
        subprocess.Popen([*command, str(r), str(ranks), str(tmp_path / "store")], env=environment, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for r in range(ranks)
    ]  # fmt: skip
    try:
        for process in running:
            out, _ = process.communicate(timeout=180)
            assert process.returncode == 0 and "passed" in out, out
    finally:
        for process in running:
            process.kill()


def test_one_rank_needs_no_neighbour(tmp_path):
    import spectralops as so

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        u, k = torch.randn(2, 4, 10), torch.randn(4, 6)
        for mode in ("causal", "same", "circular"):
            assert torch.equal(so.distributed.fft_conv(u, k, mode=mode), so.fft_conv(u, k, mode=mode))
    finally:
        dist.destroy_process_group()
