"""How much memory a language model needs: by formula, by a simulated step, and measured."""
