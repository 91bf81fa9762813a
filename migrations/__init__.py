"""The database's schema: numbered SQL files in dbmate's format, applied by `protocol.adapters.migrate`.

A file that was released is never edited; a change is a new file. What several statements must decide
together (which run of a session is ready) is a function here, because only a statement that starts after
the session's row was locked sees what others have committed, and one call is one round trip.
"""
