"""How few labels does an encoder need? Features, protocols, and rows of results.

To add a protocol that fits a linear classifier: a file, a line in `few_shot`, its name in `layergraft.config.recipe`.
"""
