"""The ledger: balances on a tree of allocations, the append-only journal behind them, and the audit of both."""
