"""The cost model: from a config to a predicted time, and the reason for it."""
