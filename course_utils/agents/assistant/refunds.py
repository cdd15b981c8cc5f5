"""The one tool that cannot be undone: a refund. The assistant proposes it; only a person's approval pays it.

The lock is here, in the tool, and not in what a model was told: no text, whoever wrote it, opens it.
"""

import secrets
import sqlite3
from dataclasses import dataclass

from course_utils.agents.loop import Tools
from course_utils.prisma.tools import Result, failed


class RefundError(ValueError):
    """A refund that may not be proposed or paid; the message is for the customer."""


@dataclass(frozen=True)
class Proposal:
    """A refund that waits for a person: order, customer, whole euros, and a name that is good for one decision."""

    order: int
    record: str
    customer: str
    euros: int
    name: str


class Refunds:
    """Refunds in the shop's database: the table `refunds` has one row for each that was paid."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self._waiting: Proposal | None = None
        database.execute("create table if not exists refunds (number int primary key, euros int, approved_by text)")

    def propose(self, number: str, customer: str, claimed: str) -> Proposal:
        """A refund of the whole order `number`. `claimed` is the amount that the model worked out, "24 euros".

        RefundError if the order is not the customer's or is returned already, or if the amount is not the database's.
        """
        record, euros, status = self._order(number, customer)
        if status == "returned":
            raise RefundError(f"Order {number} is returned already.")
        if claimed != f"{euros} euros":
            raise RefundError(
                f"I worked out {claimed or 'nothing'}, the shop's books say {euros} euros. I ask a person."
            )
        proposal = Proposal(int(number), record, customer, euros, secrets.token_hex(4))
        self._waiting = proposal  # a newer proposal takes the place of an older one
        return proposal

    def pay(self, proposal: Proposal, approved_by: str) -> str:
        """Pay a proposal that a person has approved. Each is good once; later changes are seen.

        RefundError for a proposal that nobody made here or that was decided, or an order that was
        changed meanwhile.
        """
        if proposal != self._waiting:
            raise RefundError("No such refund is waiting for a decision.")
        self._waiting = None
        _, euros, status = self._order(str(proposal.order), proposal.customer)
        if status == "returned" or euros != proposal.euros:
            raise RefundError(f"Order {proposal.order} has changed meanwhile. Ask again.")
        with self.database:  # both or neither
            paid = (proposal.order, euros, approved_by)
            self.database.execute("insert into refunds values (?, ?, ?)", paid)
            returned = "update orders set status = 'returned' where number = ?"
            self.database.execute(returned, (proposal.order,))
        return f"Refunded: {euros} euros for order {proposal.order}."

    def decline(self, proposal: Proposal) -> str:
        """Forget a proposal. Nothing is changed."""
        if proposal == self._waiting:
            self._waiting = None
        return f"Not refunded: order {proposal.order} stays as it is."

    def _order(self, number: str, customer: str) -> tuple[str, int, str]:
        """The record, the price in euros and the status of an order of `customer`."""
        row = self.database.execute(
            "select quantity, product, status, quantity * price from orders join products on product = name"
            " where number = ? and customer = ?",
            (number, customer),
        ).fetchone()
        if row is None:
            raise RefundError(f"I find no order {number} of yours.")
        quantity, product, status, euros = row
        return f"{quantity} {product}, {status}", euros, status


class OwnOrders:
    """A toolbox that knows one customer's orders: who may read what, is decided here."""

    def __init__(self, toolbox: Tools, customer: str) -> None:
        self.toolbox, self.customer = toolbox, customer

    def __call__(self, name: str, argument: str) -> Result:
        result = self.toolbox(name, argument)
        if name == "orders" and result.fields.get("customer") != self.customer:
            return failed(f"no order {argument}")
        if name == "customer" and argument.strip() != self.customer:
            return failed(f"no customer {argument}")
        return result
