"""Hand-chosen mutants of the ledger's functions, each of which some test must kill."""
