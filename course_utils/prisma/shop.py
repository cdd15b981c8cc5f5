"""The shop itself: products, orders and policies, drawn from a seed and kept in SQLite."""

import random
import re
import sqlite3
from dataclasses import dataclass
from itertools import product as cross
from pathlib import Path

from course_utils.settings import SEED

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SHAPES = ("cube", "ball", "cone", "cylinder", "pyramid", "ring", "star", "heart")
SIZES = ("small", "medium", "large")
STATUSES = ("ordered", "packed", "shipped", "delivered", "returned")
NAMES = (
    "Ada", "Ben", "Cleo", "Dario", "Ella", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Liam",
    "Mia", "Noor", "Otto", "Priya", "Quinn", "Rosa", "Sam", "Tara", "Umar", "Vera", "Wen", "Yara",
)  # fmt: skip
TOPICS = {
    "returns": "goods can be returned within {} days",
    "warranty": "toys are covered for {} months",
    "shipping": "parcels arrive within {} days",
    "fee": "shipping costs {} euros",
    "discount": "orders of ten or more get {} percent off",
    "gift": "gift wrapping costs {} euros",
}

# Colour-shape pairs that prisma-clip never sees in training: one for each colour and one for each shape.
HELD_OUT = tuple((colour, SHAPES[(3 * i + 2) % 8]) for i, colour in enumerate(COLOURS))
TRAINED_PAIRS = tuple(pair for pair in cross(COLOURS, SHAPES) if pair not in HELD_OUT)


@dataclass(frozen=True)
class Product:
    """One article of the catalogue. `price` is in whole euros, `stock` in pieces."""

    size: str
    colour: str
    shape: str
    price: int
    stock: int

    @property
    def name(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


RECORD = re.compile(
    r"order (?P<number>\d{4}): (?P<quantity>\d+) (?P<product>[a-z ]+) for (?P<customer>\w+), (?P<status>\w+)"
)


def order_record(number: int | str, quantity: int | str, product: str, customer: str, status: str) -> str:
    """What the shop's tools, its support and its labels read of an order; RECORD finds it in a text."""
    return f"order {number}: {quantity} {product} for {customer}, {status}"


@dataclass(frozen=True)
class Order:
    """One order: `quantity` pieces of one product for one customer; `number` has four digits."""

    number: int
    customer: str
    quantity: int
    product: Product
    status: str

    @property
    def record(self) -> str:
        """The order as the shop's tools show it."""
        return order_record(self.number, self.quantity, self.product.name, self.customer, self.status)


@dataclass(frozen=True)
class Shop:
    """A whole shop. Orders are keyed by number, products by name, policies by topic."""

    products: dict[str, Product]
    orders: dict[int, Order]
    policies: dict[str, int]


def make_shop(seed: int = SEED, orders: int = 400) -> Shop:
    """Draw a shop: 192 products, `orders` orders with distinct numbers and six policies."""
    rng = random.Random(seed)
    products = [
        Product(*parts, price=rng.randint(3, 49), stock=rng.randint(0, 99)) for parts in cross(SIZES, COLOURS, SHAPES)
    ]
    numbers = rng.sample(range(1000, 10000), orders)
    drawn = [
        Order(n, rng.choice(NAMES), rng.randint(1, 9), rng.choice(products), rng.choice(STATUSES)) for n in numbers
    ]
    policies = {topic: rng.randint(2, 60) for topic in TOPICS}
    return Shop({p.name: p for p in products}, {o.number: o for o in drawn}, policies)


def policy_text(shop: Shop, topic: str) -> str:
    """The sentence that the shop publishes on `topic`."""
    return TOPICS[topic].format(shop.policies[topic])


def open_database(shop: Shop, path: Path | str = ":memory:") -> sqlite3.Connection:
    """A SQLite database of the shop with the tables `products`, `orders` and `policies`.

    Without a path it lives in memory. An existing file is replaced.
    """
    if path != ":memory:":
        Path(path).unlink(missing_ok=True)
    # Agents may call their tools from another thread; every query here is a single read.
    db = sqlite3.connect(path, check_same_thread=False)
    db.execute("create table products (name text primary key, size, colour, shape, price int, stock int)")
    db.execute(
        "create table orders (number int primary key, customer text, quantity int, product text, status text,"
        " foreign key (product) references products (name))"
    )
    db.execute("create table policies (topic text primary key, sentence text)")
    rows = [(p.name, p.size, p.colour, p.shape, p.price, p.stock) for p in shop.products.values()]
    db.executemany("insert into products values (?, ?, ?, ?, ?, ?)", rows)
    rows = [(o.number, o.customer, o.quantity, o.product.name, o.status) for o in shop.orders.values()]
    db.executemany("insert into orders values (?, ?, ?, ?, ?)", rows)
    db.executemany("insert into policies values (?, ?)", [(t, policy_text(shop, t)) for t in TOPICS])
    db.commit()
    return db


def write_policies(shop: Shop, path: Path) -> Path:
    """Write the policies as a Markdown page, one section a topic."""
    parts = [f"## {topic.capitalize()}\n\n{policy_text(shop, topic).capitalize()}.\n" for topic in TOPICS]
    path.write_text("# How Prisma works\n\n" + "\n".join(parts), encoding="utf-8", newline="\n")
    return path
