"""The one exception that is meant for users."""


class LowRankError(ValueError):
    """What is wrong, with which value, and what to do about it: one or two lines.

    Everything a user can cause (configuration, data, checkpoints, plans) is reported by
    this class or a subclass of it; stages print it without a traceback.
    """
