"""The pipeline that the image of the runner and of the steps holds."""

from zenml import pipeline, step


@step(enable_cache=False)
def hello() -> None:
    """Write a line."""
    print("hello from a step")


@pipeline(enable_cache=False)
def demo() -> None:
    """Run one step."""
    hello()
