"""Start servers within an allocation, each on a lease that is settled when the server has ended."""
