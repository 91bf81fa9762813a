"""What every API does the same way: sessions, messages, attachments and agent contexts. No HTTP."""
