"""The life of allocations: agreements, membership, requests and reviews, sub-allocations, states, and their audit."""
