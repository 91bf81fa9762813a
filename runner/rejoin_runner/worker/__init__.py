"""The process that pulls run requests, claims runs and keeps them alive."""
