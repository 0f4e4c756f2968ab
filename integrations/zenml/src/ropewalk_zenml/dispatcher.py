"""The seam by which newer ZenML servers take on the runs of snapshots.

The server's own implementation has a pool of a few threads in each process, and
refuses what exceeds it. Here the server's own execution goes on at once, in the
thread of the request: with :class:`ropewalk_zenml.WorkloadManager` it takes a
few queries and one publish, and nothing waits for the runner. What is accepted
is thereby stored in Ropewalk's queue, not in this process.
"""

import contextvars
import logging
import threading

from zenml.zen_server.pipeline_execution.snapshot_run_dispatcher import (
    SnapshotRunDispatcher as SnapshotRunDispatcherInterface,
)
from zenml.zen_server.pipeline_execution.snapshot_run_dispatcher import (
    SnapshotRunExecutionRequest,
    SnapshotRunQueueFullError,
)

from ropewalk_zenml.errors import QueueFullError

logger = logging.getLogger(__name__)

_AT_ONCE = 16
"""How many are taken on side by side in one process: each needs a connection to
the database, of which a server has 20 by default. The others wait their turn."""
_TURN = 10.0
"""Seconds that they wait. While NATS answers, a turn comes within the second;
behind runs that wait for it in vain, the server's threads are better let go."""


class SnapshotRunDispatcher(SnapshotRunDispatcherInterface):
    """Takes on runs by executing them up to Ropewalk's queue."""

    def __init__(self) -> None:
        self._turns = threading.BoundedSemaphore(_AT_ONCE)

    def submit(self, request: SnapshotRunExecutionRequest) -> None:
        """Take on a prepared run; once this returns, it is stored.

        It raises SnapshotRunQueueFullError, which the server answers with 429,
        when the queue is full or no turn comes; else what the execution raises.
        """
        from zenml.zen_server.pipeline_execution.utils import execute_snapshot_run

        # The execution sets the identity that it runs as, which must not
        # become that of the request.
        context = contextvars.copy_context()
        if not self._turns.acquire(timeout=_TURN):
            raise SnapshotRunQueueFullError(
                f"This server takes on {_AT_ONCE} runs already and none of them gets on; try again later, "
                "and see in the server's log whether it reaches NATS and its database."
            )
        try:
            context.run(execute_snapshot_run, request)
        except Exception as problem:
            if _is_full(problem):
                raise SnapshotRunQueueFullError(str(_cause(problem))) from problem
            raise
        finally:
            self._turns.release()


def _cause(problem: BaseException) -> BaseException:
    return problem.__cause__ or problem


def _is_full(problem: BaseException) -> bool:
    return isinstance(problem, QueueFullError) or isinstance(problem.__cause__, QueueFullError)
