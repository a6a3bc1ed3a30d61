"""Steps from one revision of the ledger's schema to the next; run when a ledger is opened."""
