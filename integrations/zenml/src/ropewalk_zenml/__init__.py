"""Has a ZenML server hand its snapshot runs to Ropewalk.

The server loads the classes by their names, from the environment::

    ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE=ropewalk_zenml.WorkloadManager
    ZENML_SERVER_SNAPSHOT_RUN_DISPATCHER_IMPLEMENTATION_SOURCE=ropewalk_zenml.SnapshotRunDispatcher

The second one exists only where the installed ZenML has that seam.
"""

from ropewalk_zenml.errors import QueueFullError, RopewalkError
from ropewalk_zenml.workload_manager import WorkloadManager

__all__ = ["QueueFullError", "RopewalkError", "WorkloadManager"]

try:
    from ropewalk_zenml.dispatcher import SnapshotRunDispatcher

    __all__ += ["SnapshotRunDispatcher"]
except ModuleNotFoundError as missing:  # an older ZenML
    if not (missing.name or "").startswith("zenml"):
        raise
