"""Everything that the database has stored of one person."""
