"""One file per daemon and the runtime that drives them; no business rule lives here."""
