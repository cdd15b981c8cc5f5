"""The samples in data/samples are what the generators make today, and say what the shop says."""

import csv
import json

from course_utils.prisma import samples, shop, text


def test_regenerating_gives_the_same_bytes(tmp_path):
    made = samples.write_samples(tmp_path)
    assert [path.name for path in made] == ["products.csv", "orders.csv", "policies.md", "traces.jsonl"]
    for path in made:
        # A checkout may have CRLF in spite of .gitattributes: an old git, or an archive unpacked as text.
        committed = (samples.SAMPLES / path.name).read_bytes().replace(b"\r\n", b"\n")
        assert b"\r" not in path.read_bytes()
        assert path.read_bytes() == committed, f"{path.name} is out of date: run samples.write_samples()"


def test_tables_hold_rows_of_the_shop():
    prisma = shop.make_shop()
    with (samples.SAMPLES / "products.csv").open(encoding="utf-8", newline="") as file:
        products = list(csv.DictReader(file))
    with (samples.SAMPLES / "orders.csv").open(encoding="utf-8", newline="") as file:
        orders = list(csv.DictReader(file))
    assert len(products) == 192 and len(orders) == samples.ORDERS
    assert all(int(row["price"]) == prisma.products[row["name"]].price for row in products)
    assert all(prisma.orders[int(row["number"])].product.name == row["product"] for row in orders)


def test_traces_end_in_their_answers():
    lines = (samples.SAMPLES / "traces.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == samples.TRACES
    for trace in map(json.loads, lines):
        assert text.correct(trace["answer"], trace["react"].removesuffix("<|end|>"))
        assert trace["calls"].endswith(f"<|assistant|>{trace['answer']}<|end|>")
        assert trace["plan"].count("#E1 =") == 1
