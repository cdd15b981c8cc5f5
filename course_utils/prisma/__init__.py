"""Prisma, the made-up toy shop of the course: its data, and the small models trained on it."""
