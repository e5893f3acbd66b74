"""Ragline: documents in, cited answers out, at a latency and an availability it can state, alarm on and prove."""

import os

__version__ = "0.1.0"

# Before gRPC is loaded, by whichever adapter. Where a process that has connections starts another one (the parser's children),
# gRPC's handlers of the fork meet its own threads, and one of the two dies by a segmentation fault: 236 of 1,500 children, now
# and then the worker itself. Ours run another program at once, and need no such handlers.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
