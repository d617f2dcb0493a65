"""One module for each method that generalises; ``registry.py`` finds them."""
