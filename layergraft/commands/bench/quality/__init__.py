"""`layergraft bench quality`: accuracy over core-seconds of training, of recipes and of other packages."""
