"""What Clearhead says when something is wrong: sentences, as errors or as warnings."""


class ClearheadError(ValueError, RuntimeError):
    """Says what was got, what was expected and how to mend it, in the notation of the docs.

    It is a RuntimeError too, which PyTorch's attention raises for shapes and arguments that do not fit.
    """


class WatchWarning(UserWarning):
    """A watch saw less than it should, or something else than the model computed; `accelerate` took nothing."""


class PerformanceWarning(UserWarning):
    """The result is right, but this installation lacks what would compute it faster."""


def first_line(error: BaseException) -> str:
    """What an error says, without its details; its name if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
