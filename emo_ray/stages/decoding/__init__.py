"""From a manifest to decoded shards. Reading order: storage, shard_plan, inspection, corpus."""
