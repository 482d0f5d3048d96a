"""The inside of the Redis adapter: one pipelined connection, scripts that check fences, members of groups."""
