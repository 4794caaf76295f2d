"""Plans carried out: layers built, measured, certified, refit, and plans compared."""
