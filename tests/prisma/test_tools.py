"""The tools read the right rows, refuse what they can't do in words, and run nothing that a model writes."""

import pytest

from course_utils.prisma import shop, tools


@pytest.fixture
def prisma():
    return shop.make_shop()


@pytest.fixture
def toolbox(prisma):
    return tools.Toolbox(shop.open_database(prisma))


def test_orders_of_the_whole_shop(prisma, toolbox):
    for number, order in prisma.orders.items():
        result = toolbox("orders", str(number))
        assert result.ok
        assert result.fields == {
            "quantity": str(order.quantity),
            "product": order.product.name,
            "customer": order.customer,
            "status": order.status,
        }
        assert all(value in result.text for value in result.fields.values())


def test_catalogue_of_the_whole_shop(prisma, toolbox):
    for name, item in prisma.products.items():
        assert toolbox("catalogue", name).fields == {"price": str(item.price), "stock": str(item.stock)}


def test_customer_gives_the_last_order(prisma, toolbox):
    last = {order.customer: number for number, order in prisma.orders.items()}
    for name, number in last.items():
        assert toolbox("customer", name).fields == {"number": str(number)}


def test_policies(prisma, toolbox):
    for topic, number in prisma.policies.items():
        assert toolbox("policy", topic).fields == {"number": str(number)}


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("orders", "99999", "no order 99999"),
        ("orders", "", "no order"),
        ("orders", "12.5", "no order 12.5"),
        ("catalogue", "huge pink cube", "no product huge pink cube"),
        ("customer", "Nobody", "no customer Nobody"),
        ("policy", "refunds", "no policy on refunds"),
        ("refund", "4821", "no tool refund"),
        ("database", "x", "no tool database"),  # an attribute of the toolbox, but no tool
        ("__call__", "orders", "no tool __call__"),
        ("calculator", "two plus two", "not a sum"),
    ],
)
def test_errors_are_told_to_the_model(toolbox, name, argument, message):
    result = toolbox(name, argument)
    assert not result.ok and not result.fields
    assert result.text.startswith("error: ") and message in result.text


INJECTIONS = [
    "1 or 1=1",
    "1000; drop table orders",
    "x' or '1'='1",
    "' union select sentence, topic from policies --",
    'Ada"; delete from orders; --',
    "%",
    "\x00",
    "\ud800",  # half a character: SQLite can't take it, json.loads can make it
    "a" * 100_000,
]


@pytest.mark.parametrize("argument", INJECTIONS)
def test_sql_in_an_argument_is_only_a_strange_name(toolbox, argument):
    before = list(toolbox.database.iterdump())
    for name in tools.SIGNATURES:
        result = toolbox(name, argument)
        assert not result.ok and result.text.startswith("error: ")
    assert list(toolbox.database.iterdump()) == before


@pytest.mark.parametrize(
    ("expression", "value"),
    [("3 * 12", 36), ("12 + 30 - 2", 40), ("2 * (3 + 4)", 14), (" 7 ", 7), ("9 * 9 + 9 * 9", 162)],
)
def test_sums(expression, value):
    assert tools.calculate(expression) == value


ATTACKS = [
    "__import__('os').system('echo hacked')",
    "open('/etc/passwd').read()",
    "().__class__.__bases__[0].__subclasses__()",
    "9 ** 9 ** 9",
    "10 / 0",
    "1 << 60",
    "[1] * 9",
    "'a' * 9",
    "True + 1",
    "1.5 * 2",
    "(lambda: 1)()",
    "x := 1",
    "1 if 1 else 2",
    "print",
    "-1",
    "",
    "1\n+ 2",
    "\x00",
    "\ud800",
    "(" * 60,
    "1" + "+1" * 40,
    "9" * 61,
]


@pytest.mark.parametrize("expression", ATTACKS)
def test_everything_but_a_short_sum_is_refused(expression, toolbox):
    with pytest.raises(ValueError):
        tools.calculate(expression)
    assert toolbox("calculator", expression).text.startswith("error: ")


def test_schemas_have_the_form_that_chat_templates_read():
    for schema, (name, (argument, kind, text)) in zip(tools.schemas(), tools.SIGNATURES.items(), strict=True):
        function = schema["function"]
        assert schema["type"] == "function" and function["name"] == name and function["description"] == text
        assert function["parameters"]["properties"] == {argument: {"type": kind}}
        assert function["parameters"]["required"] == [argument]
