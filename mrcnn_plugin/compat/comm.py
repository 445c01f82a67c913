"""What Detectron2 0.6's `comm` lacks and its main branch has."""

from __future__ import annotations

import torch.distributed as dist
from detectron2.utils import comm


def create_local_process_group(num_processes: int) -> None:
    """Tells Detectron2 which ranks share this machine; every rank must call it."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(num_processes)
        return
    # Detectron2 0.6 sets this in its own launch() only.
    for first in range(0, dist.get_world_size(), num_processes):
        ranks = list(range(first, first + num_processes))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group
