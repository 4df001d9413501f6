"""The claims of layer grafting on this machine: every arm from recipes, searched alike, with error bars."""
