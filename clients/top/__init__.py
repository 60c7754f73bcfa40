"""A live view of servers: what they say (watch), drawn (frame), again and again (live)."""
