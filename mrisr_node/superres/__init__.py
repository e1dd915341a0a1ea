"""Through-plane super-resolution: physics, network, checkpoints, training and measurement."""

import os

# Makes torch put large tensors on large pages (Linux): a fifth faster, for the same bits.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
