"""The lifting methods, one module each; ``registry.py`` finds every module in this folder."""
