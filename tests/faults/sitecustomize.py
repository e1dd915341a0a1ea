"""Lets any Python process of a node be killed at a chosen point; see ``fault_points``.

With this folder in PYTHONPATH, Python imports this file when it starts.
"""

import os

if "FAULTS" in os.environ:
    import fault_points

    fault_points.install()
