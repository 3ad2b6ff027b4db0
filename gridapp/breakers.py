"""Breakers closed by hand, for every face."""

from __future__ import annotations

from typing import Any

from agents.runtime.agent import Context
from gridcore import identity
from gridcore.db import dbnow
from gridcore.errors import UsageError
from gridcore.identity import Action, Principal, Subject
from prodsys.queue import breakers
from prodsys.settling.retries import ErrorClass


def reset(context: Context, site: str, error_class: str, actor: Principal) -> dict[str, Any]:
    """Give a site its work again at once: {"site", "class", "changed"}.

    What failed until now counts no more; what fails from now on may open the breaker again. Raises UsageError
    for a class there is not, NotFound for a site or breaker, Denied.
    """
    if error_class not in tuple(ErrorClass):
        names = ", ".join(one.value for one in ErrorClass)
        raise UsageError(f"there is no error class {error_class!r}", hint=f"classes: {names}")
    identity.require(actor, Action.SITE_CONFIGURE, Subject(site=site))
    kind = ErrorClass(error_class)
    changed = context.database.transaction(
        lambda conn: breakers.reset(conn, site, kind, actor.name, dbnow(conn))
    )
    return {"site": site, "class": error_class, "changed": changed}
