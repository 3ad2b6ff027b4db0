"""Foundation: ids, clock, errors, settings, state machines, db, messaging, identity, metrics."""
