"""What a run does next, decided from its log alone. Pure: no I/O, no clock."""
