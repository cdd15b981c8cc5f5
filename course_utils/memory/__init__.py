"""How much memory a language model needs: by formula, counted on the model itself, by a simulated step, measured."""
