"""What the fork server imports once, so that each process starts quickly."""

from __future__ import annotations

import torch

from lit_instruct.models import assemble  # noqa: F401
from lit_instruct.rollouts import generate  # noqa: F401
from lit_instruct.running import last_checkpoint, stage_cli  # noqa: F401

torch.set_num_threads(1)
