"""The queue of batch runs: submitted by people, admitted by the ledger, taken by the batch process."""
