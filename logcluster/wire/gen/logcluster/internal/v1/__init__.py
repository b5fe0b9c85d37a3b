"""Generated from proto/ by scripts/generate-stubs; never edited."""
