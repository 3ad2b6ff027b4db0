"""Keep of each event its impact parameter and its charged final-state particles: pT, eta and their number."""

from __future__ import annotations

import os
from typing import Any

import payload

BRANCHES = ["impact", "px", "py", "pz", "pdgid", "status"]
REDUCED = {"impact": "float32", "nch": "int32", "pt": "var * float32", "eta": "var * float32"}
FINAL = 1


def main() -> None:
    import uproot

    job = payload.job()
    output, inputs = job.output(), job.read_inputs()
    events = 0
    with uproot.recreate(f"{output}.part", compression=uproot.ZLIB(1)) as file:
        tree = file.mktree("event", REDUCED, title="charged final-state particles; pt in GeV/c")
        for source in inputs:
            for chunk in payload.root_chunks(source, BRANCHES):
                tree.extend(reduced(chunk))
                events += len(chunk)
    payload.check_root_end(f"{output}.part")
    os.replace(f"{output}.part", output)
    payload.report(job, events=events, events_read=events)


def reduced(chunk: Any) -> dict[str, Any]:
    """The reduced branches of a chunk, one entry for each of its events."""
    import awkward as ak
    import numpy as np

    kept = (chunk.status == FINAL) & charged(chunk.pdgid)
    px, py, pz = (chunk[branch][kept] for branch in ("px", "py", "pz"))
    pt = np.hypot(px, py)
    # A particle along the beam gets a large eta of the right sign instead of an infinite one.
    eta = np.arcsinh(pz / np.maximum(pt, np.float32(1e-9)))
    return {"impact": chunk.impact, "nch": ak.values_astype(ak.num(pt), "int32"), "pt": pt, "eta": eta}


def charged(codes: Any) -> Any:
    """Which of the jagged PDG codes are of charged particles; codes unknown to PDG are not."""
    import awkward as ak
    import numpy as np
    from particle import PDGID

    distinct, places = np.unique(ak.to_numpy(ak.flatten(codes)), return_inverse=True)
    has_charge = np.array([bool(PDGID(int(code)).three_charge) for code in distinct], dtype=bool)
    return ak.unflatten(has_charge[places], ak.num(codes))


if __name__ == "__main__":
    payload.run(main)
