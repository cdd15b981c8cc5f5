"""The shop is the same from the same seed, consistent in itself, and SQLite holds exactly that shop."""

import sqlite3

import pytest

from course_utils.prisma import shop


@pytest.fixture(scope="module")
def prisma():
    return shop.make_shop()


def test_same_seed_same_shop_other_seed_other_shop(prisma):
    assert shop.make_shop() == prisma
    other = shop.make_shop(seed=8)
    same_price = sum(other.products[n].price == p.price for n, p in prisma.products.items())
    assert same_price < 30  # by chance 192 / 47, about 4
    assert len(prisma.orders.keys() & other.orders.keys()) < 60


def test_catalogue_has_every_product_once(prisma):
    assert len(prisma.products) == 3 * 8 * 8
    assert all(name == product.name for name, product in prisma.products.items())
    assert {p.price for p in prisma.products.values()} <= set(range(3, 50))


def test_orders_are_four_digits_of_products_that_exist(prisma):
    assert len(prisma.orders) == 400
    for number, order in prisma.orders.items():
        assert number == order.number and 1000 <= number <= 9999
        assert prisma.products[order.product.name] == order.product
        assert order.status in shop.STATUSES and order.customer in shop.NAMES and 1 <= order.quantity <= 9


def test_held_out_pairs_take_each_colour_and_each_shape_once():
    assert sorted(c for c, _ in shop.HELD_OUT) == sorted(shop.COLOURS)
    assert sorted(s for _, s in shop.HELD_OUT) == sorted(shop.SHAPES)


def test_database_says_what_the_shop_says(prisma):
    db = shop.open_database(prisma)
    rows = db.execute(
        "select number, customer, quantity, product, status, price from orders join products on name = product"
    ).fetchall()
    expected = {
        (o.number, o.customer, o.quantity, o.product.name, o.status, o.product.price) for o in prisma.orders.values()
    }
    assert len(rows) == 400 and set(rows) == expected
    assert dict(db.execute("select topic, sentence from policies")) == {
        topic: shop.policy_text(prisma, topic) for topic in shop.TOPICS
    }


def test_database_on_disk_replaces_an_older_one(prisma, tmp_path):
    path = tmp_path / "a shop.sqlite"
    for _ in range(2):
        db = shop.open_database(prisma, path)
        assert db.execute("select count(*) from orders").fetchone() == (400,)
        db.close()
    with pytest.raises(sqlite3.OperationalError):
        shop.open_database(prisma, tmp_path / "no such folder" / "shop.sqlite")


def test_policies_as_markdown(prisma, tmp_path):
    page = shop.write_policies(prisma, tmp_path / "policies.md").read_text(encoding="utf-8")
    assert page.count("## ") == len(shop.TOPICS)
    for topic in shop.TOPICS:
        assert f"## {topic.capitalize()}" in page
        assert shop.policy_text(prisma, topic).lower() in page.lower()


def test_an_orders_record_is_read_back_from_any_text():
    for order in list(shop.make_shop(3, 50).orders.values()):
        found = shop.RECORD.search(f"{order.record}; policy: none")
        assert found.groupdict() == {
            "number": str(order.number),
            "quantity": str(order.quantity),
            "product": order.product.name,
            "customer": order.customer,
            "status": order.status,
        }
