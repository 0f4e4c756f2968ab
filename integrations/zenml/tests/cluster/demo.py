"""The pipeline that the image of the runner and of the steps holds."""

from zenml import pipeline, step


@step(enable_cache=False)
def hello() -> str:
    """Write a line and an artifact."""
    print("hello from a step")
    return "hello"


@pipeline(enable_cache=False)
def demo() -> None:
    """Run one step."""
    hello()
