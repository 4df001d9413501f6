"""How few labels does an encoder need? Features, protocols, and rows of results."""
