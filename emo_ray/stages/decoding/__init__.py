"""From a manifest to decoded shards. Reading order: shard_plan, inspection, corpus."""
