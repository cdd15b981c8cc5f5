"""The tools that an agent may use on the shop: SQL look-ups, a policy search and a calculator.

Training data and notebooks call the very same functions, so a trace that prisma-lm learned from
looks exactly like a trace that you record.
"""

import ast
import operator
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

from course_utils.prisma.shop import order_record

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
LONGEST_EXPRESSION = 60

# What each tool takes (name, JSON type) and does. The order is the order in which prompts list them.
SIGNATURES = {
    "orders": ("number", "integer", "Look an order up by its four-digit number."),
    "catalogue": ("product", "string", "Price and stock of a product, such as 'small red cube'."),
    "customer": ("name", "string", "The number of a customer's last order."),
    "policy": ("topic", "string", "What the shop promises on a topic: returns, warranty, shipping, ..."),
    "calculator": ("expression", "string", "Work out a sum such as '3 * 12'."),
}


@dataclass(frozen=True)
class Result:
    """What a tool says: `text` for the model, `fields` for programs. `ok` is False for an error."""

    text: str
    fields: dict[str, str] = field(default_factory=dict)
    ok: bool = True


def failed(message: str) -> Result:
    return Result(f"error: {message}", ok=False)


def calculate(expression: str) -> int:
    """Work out whole-number sums with + - * and brackets. Raises ValueError for anything else.

    The expression is parsed into a syntax tree and walked: nothing that a model writes is ever run.
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise ValueError("expression too long")
    try:
        return value_of(ast.parse(expression.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"not a sum: {expression}") from error


def value_of(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](value_of(node.left), value_of(node.right))
    raise ValueError("only whole numbers and + - * are allowed")


class Toolbox:
    """The shop's tools over one SQLite database. Call them by name: `toolbox("orders", "4821")`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database

    def __call__(self, name: str, argument: str) -> Result:
        """Run one tool. Bad names and arguments come back as an error text, never as an exception."""
        if name not in SIGNATURES:
            return failed(f"no tool {name}")
        call: Callable[[str], Result] = getattr(self, name)
        # JSON can carry half a character, which SQLite can't take.
        return call(str(argument).strip().encode("utf-8", "replace").decode())

    def _row(self, query: str, value: str | int) -> tuple | None:
        return self.database.execute(query, (value,)).fetchone()

    def orders(self, number: str) -> Result:
        found = re.fullmatch(r"\d{4}", number) and self._row(
            "select quantity, product, customer, status from orders where number = ?", int(number)
        )
        if not found:
            return failed(f"no order {number}")
        quantity, product, customer, status = (str(part) for part in found)
        fields = {"quantity": quantity, "product": product, "customer": customer, "status": status}
        return Result(order_record(number, **fields), fields)

    def catalogue(self, product: str) -> Result:
        found = self._row("select price, stock from products where name = ?", product)
        if not found:
            return failed(f"no product {product}")
        fields = {"price": str(found[0]), "stock": str(found[1])}
        return Result(f"{product}: {found[0]} euros, {found[1]} in stock", fields)

    def customer(self, name: str) -> Result:
        found = self._row("select number from orders where customer = ? order by rowid desc", name)
        if not found:
            return failed(f"no customer {name}")
        return Result(f"{name}: last order {found[0]}", {"number": str(found[0])})

    def policy(self, topic: str) -> Result:
        found = self._row("select sentence from policies where topic = ?", topic)
        if not found:
            return failed(f"no policy on {topic}")
        return Result(found[0], {"number": re.findall(r"\d+", found[0])[0]})

    def calculator(self, expression: str) -> Result:
        try:
            value = str(calculate(expression))
        except ValueError as error:
            return failed(str(error))
        return Result(value, {"value": value})


def schemas() -> list[dict]:
    """The tools in the JSON form that chat templates and OpenAI-compatible servers expect."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": text,
                "parameters": {
                    "type": "object",
                    "properties": {argument: {"type": kind}},
                    "required": [argument],
                },
            },
        }
        for name, (argument, kind, text) in SIGNATURES.items()
    ]
