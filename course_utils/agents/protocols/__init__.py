"""The shop behind MCP and A2A, and clients that trust no server."""
