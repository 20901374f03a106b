"""The aggregator: hands out tasks, stores updates, merges them into the next version of the heads."""
