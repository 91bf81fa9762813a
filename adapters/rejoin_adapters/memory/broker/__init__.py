"""The ports that JetStream implements, in memory."""
