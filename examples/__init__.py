"""Small complete applications to read, run and change."""
