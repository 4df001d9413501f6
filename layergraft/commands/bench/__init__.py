"""How fast is this machine at it? One file for each thing that `layergraft bench` measures."""
