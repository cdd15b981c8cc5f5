"""Functions that Unit 7.4's exercises are given as inputs. No answers here: this comes along to a student's process."""


def draw(low: float, high: float) -> float:
    """Stands in for random.uniform: always three quarters of the way."""
    return low + 0.75 * (high - low)


def draw_early(low: float, high: float) -> float:
    """The same a quarter of the way."""
    return low + 0.25 * (high - low)


def draw_late(low: float, high: float) -> float:
    """The same seven eighths of the way."""
    return low + 0.875 * (high - low)
