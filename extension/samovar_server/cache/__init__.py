"""Which models are in memory: entries, leases, the eviction policy and the cache itself."""
