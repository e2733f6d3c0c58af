"""Faults of every kind, made on real jobs.

Reading order: faults, running, contents, chat_server, bucket, nodes, workshop, kills, node_kills, space, damage,
services, strangers, chaos.
"""
