"""The shop's assistant: memory, retrieval, tools with approval, a filter, a log, and two front ends."""
