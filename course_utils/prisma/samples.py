"""Small samples of the shop as text files, for readers who want to look before they run anything."""

import csv
import io
import json
import random
from pathlib import Path

from course_utils.prisma import text
from course_utils.prisma.shop import Shop, make_shop, open_database, write_policies
from course_utils.prisma.tools import Toolbox
from course_utils.settings import DATA, SEED

SAMPLES = DATA / "samples"
ORDERS = 50
TRACES = 20


def _write_csv(path: Path, rows: list[dict]) -> Path:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(buffer.getvalue().encode())
    return path


def _products(shop: Shop) -> list[dict]:
    return [
        {
            "name": p.name,
            "size": p.size,
            "colour": p.colour,
            "shape": p.shape,
            "price": p.price,
            "stock": p.stock,
        }
        for p in shop.products.values()
    ]


def _orders(shop: Shop) -> list[dict]:
    return [
        {
            "number": o.number,
            "customer": o.customer,
            "quantity": o.quantity,
            "product": o.product.name,
            "status": o.status,
        }
        for o in list(shop.orders.values())[:ORDERS]
    ]


def traces(shop: Shop) -> list[dict]:
    """Questions with their answer and the three ways to write their calls: ReAct, JSON calls and a plan."""
    toolbox, rng = Toolbox(open_database(shop)), random.Random(SEED)
    return [
        {
            "kind": task.kind,
            "question": task.question,
            "answer": task.answer,
            "react": text.react(rng, toolbox, task).text,
            "calls": text.function_calls(rng, toolbox, task).text,
            "plan": text.plan(rng, toolbox, task).text,
        }
        for task in text.episodes(TRACES, SEED, shop)
    ]


def write_samples(folder: Path = SAMPLES) -> list[Path]:
    """Write products, orders, policies and traces of the shop with the course's seed into `folder`."""
    shop = make_shop()
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(trace) + "\n" for trace in traces(shop))
    (folder / "traces.jsonl").write_bytes(lines.encode())
    return [
        _write_csv(folder / "products.csv", _products(shop)),
        _write_csv(folder / "orders.csv", _orders(shop)),
        write_policies(shop, folder / "policies.md"),
        folder / "traces.jsonl",
    ]
