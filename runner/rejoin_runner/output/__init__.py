"""The one way to a run's log: `event_writer` paces and orders events (`text_pacing` is its pure part), and
`journal` batches and appends them.
"""
