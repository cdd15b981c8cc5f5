"""What a model is here: the catalogue, the machine, tiers, downloads, and loading by role."""
