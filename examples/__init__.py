"""Small things that are whole: read one, run it, make it yours."""
