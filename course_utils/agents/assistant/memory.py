"""What the assistant remembers: what "it" is, and, in the shop's database, what each customer asked.

The focus ends with the session; the questions outlive it, also a restart. `forget` deletes them.
"""

import sqlite3

from course_utils.agents.assistant.understanding import Focus, Request

RECALLED = 3  # questions that are read back


class Memory:
    """The memory of one customer. Questions are kept as the filter let them in: without personal data."""

    def __init__(self, database: sqlite3.Connection, customer: str) -> None:
        self.database, self.customer = database, customer
        self.focus = Focus()
        database.execute(
            "create table if not exists asked (customer text, question text, at text default current_timestamp)"
        )

    def keep(self, question: str) -> None:
        """Remember a question."""
        with self.database:
            self.database.execute("insert into asked (customer, question) values (?, ?)", (self.customer, question))

    def questions(self) -> list[str]:
        """All questions of this customer, the oldest first."""
        rows = self.database.execute("select question from asked where customer = ? order by rowid", (self.customer,))
        return [question for (question,) in rows]

    def recall(self) -> str:
        """The last questions in words."""
        last = self.questions()[-RECALLED:]
        if not last:
            return "You have not asked me anything yet."
        quoted = [f"“{question}”" for question in last]
        return "Before this you asked: " + ", then ".join(quoted) + "."

    def look_at(self, request: Request) -> None:
        """From now on "it" is what this request was about."""
        if request.kind in ("order", "refund"):
            self.focus = Focus(order=request.about)
        elif request.kind == "product":
            self.focus = Focus(product=request.about)

    def show(self, product: str) -> None:
        """From now on "it" is the product in a picture."""
        self.focus = Focus(product=product)

    def forget(self) -> None:
        """Delete what this customer asked."""
        self.focus = Focus()
        with self.database:
            self.database.execute("delete from asked where customer = ?", (self.customer,))
