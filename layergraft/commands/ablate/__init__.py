"""`layergraft ablate`: arms that differ in keys of a recipe, as a study."""
