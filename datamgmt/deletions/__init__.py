"""Deletions: replicas that are to go, what keeps them, their removal; and faulty files repaired."""
