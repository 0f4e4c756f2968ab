"""What can go wrong, in words for whoever reads the server's log."""


class RopewalkError(RuntimeError):
    """Ropewalk could not be reached, or refused; the text says what to do."""


class UnreachableError(RopewalkError):
    """NATS was not reached, or did not answer in time; nothing is known of what was asked."""


class QueueFullError(RopewalkError):
    """The queue holds as much as it may; nothing was stored."""
