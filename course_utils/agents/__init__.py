"""Unit 7.2: agents that use the shop's tools."""
