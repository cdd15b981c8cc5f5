import pytest

from course_utils.prisma import text


@pytest.fixture(scope="module")
def task(prisma):
    """A question that needs an order, a price and a sum."""
    return next(task for task in text.episodes(40, 3, prisma) if task.kind == "total")
