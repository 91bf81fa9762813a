"""The ports that PostgreSQL implements, and the files, in memory."""
