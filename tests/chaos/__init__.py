"""The chaos campaign: faults of every kind on real nodes and a real server, judged by an oracle outside the ledger."""

BROKER, LEDGER = "CHAOS_BROKER", "CHAOS_LEDGER"  # environment variables that tell a node where its servers are
QUEUE = "chaos"
