"""How dates are written, in place of each language's own way. FORMAT_MODULE_PATH."""
