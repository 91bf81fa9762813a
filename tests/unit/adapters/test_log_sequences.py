"""The numbers by which clients name records of the log."""

from rejoin_adapters.jetstream.run_log import SHARD_SHIFT, STREAM_SEQUENCE
from rejoin_protocol.ids import SHARDS_MAX

JAVASCRIPT_INTEGER_MAX = 2**53 - 1


def test_the_largest_sequence_of_the_last_shard_is_exact_in_javascript() -> None:
    assert (SHARDS_MAX - 1 << SHARD_SHIFT) + STREAM_SEQUENCE == JAVASCRIPT_INTEGER_MAX
