"""The shop's tools as an MCP server (Unit 7.2).

    python -m course_utils.agents.protocols.mcp_shop stdio
    python -m course_utils.agents.protocols.mcp_shop http PORT

The second one listens on loopback only, and wants the key that its environment holds in COURSE_MCP_KEY.
"""

import os
import secrets
import sys

from mcp.server import MCPServer
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp_types import CallToolResult, TextContent

from course_utils.prisma import shop
from course_utils.prisma.tools import Result, Toolbox

LOOPBACK = "127.0.0.1"
KEY = "COURSE_MCP_KEY"  # in the environment, because everybody on a machine can read a command line
NAME = "prisma-shop"


class OneKey:
    """Lets in whoever brings the key, in the form that the SDK asks for."""

    def __init__(self, key: str) -> None:
        self.key = key

    async def verify_token(self, token: str) -> AccessToken | None:
        """Who brings `token`; None for a wrong one."""
        # Takes as long for a nearly right key as for a wrong one.
        right = secrets.compare_digest(token.encode(), self.key.encode())
        return AccessToken(token=token, client_id="the notebook", scopes=[]) if right else None


def make_server(prisma: shop.Shop, key: str = "") -> MCPServer:
    """The shop `prisma` as a server: five tools, a resource and a prompt. With a `key`, HTTP clients must bring it."""
    access = {}
    if key:
        # The SDK checks keys in the frame of OAuth, which names who gives them out: here, we do by hand.
        settings = AuthSettings(issuer_url=f"http://{LOOPBACK}", resource_server_url=None)
        access = {"auth": settings, "token_verifier": OneKey(key)}
    server = MCPServer(NAME, version="1.0", log_level="ERROR", **access)
    database = shop.open_database(prisma)
    add_tools(server, Toolbox(database))
    add_texts(server, prisma)
    return server


def add_tools(server: MCPServer, toolbox: Toolbox) -> None:
    """Offer the five tools. The SDK reads name, argument, type and description from a function."""

    @server.tool()
    def orders(number: int) -> CallToolResult:
        """Look an order up by its four-digit number."""
        return as_result(toolbox("orders", str(number)))

    @server.tool()
    def catalogue(product: str) -> CallToolResult:
        """Price and stock of a product, such as 'small red cube'."""
        return as_result(toolbox("catalogue", product))

    @server.tool()
    def customer(name: str) -> CallToolResult:
        """The number of a customer's last order."""
        return as_result(toolbox("customer", name))

    @server.tool()
    def policy(topic: str) -> CallToolResult:
        """What the shop promises on a topic: returns, warranty, shipping, ..."""
        return as_result(toolbox("policy", topic))

    @server.tool()
    def calculator(expression: str) -> CallToolResult:
        """Work out a sum such as '3 * 12'."""
        return as_result(toolbox("calculator", expression))


def as_result(result: Result) -> CallToolResult:
    """What a tool says, in MCP's form. An error is a result, too: the model reads it and may go on."""
    block = TextContent(type="text", text=result.text)
    return CallToolResult(content=[block], is_error=not result.ok)


def add_texts(server: MCPServer, prisma: shop.Shop) -> None:
    """Offer what is no tool: a text to read (resource), and a question that is often asked (prompt)."""

    @server.resource("prisma://policies", mime_type="text/plain")
    def policies() -> str:
        """All that the shop promises."""
        sentences = [shop.policy_text(prisma, topic) for topic in shop.TOPICS]
        return "\n".join(sentences)

    @server.prompt()
    def where_is(number: str) -> str:
        """Ask where an order is."""
        return f"Where is order {number}?"


def main(arguments: list[str]) -> int:
    """The program. Its exit status."""
    prisma = shop.make_shop()
    match arguments:
        case ["stdio"]:
            make_server(prisma).run("stdio")
        case ["http", port] if port.isdigit():
            key = os.environ.get(KEY, "")
            if not key:
                print(f"Set {KEY} to a key first: without one, every program on this machine could ask.")
                return 2
            make_server(prisma, key).run("streamable-http", host=LOOPBACK, port=int(port))
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
