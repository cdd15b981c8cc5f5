"""For maintainers: building, running and checking the notebooks, and the list of what Colab has."""
