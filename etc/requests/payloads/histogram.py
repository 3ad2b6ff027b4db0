"""Fill dN/deta and pT histograms of charged particles from reduced ROOT trees."""

from __future__ import annotations

import argparse
from typing import Any

import payload


def main() -> None:
    import numpy as np

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", default="UrQMD, Au+Au, 7 GeV per nucleon pair", help="for the picture")
    sample = parser.parse_args().sample
    job = payload.job()
    output = job.output()
    histograms = payload.Histograms(sample)
    edges = {name: np.array(payload.edges_of(name)) for name in payload.HISTOGRAMS}
    for source in job.read_inputs():
        for chunk in payload.root_chunks(source, ["impact", *edges]):
            for impact, pt, eta in zip(chunk.impact, *split(chunk, "pt", "eta"), strict=True):
                central = pt[abs(eta) < payload.PT_ETA_MAX]
                histograms.add(
                    float(impact),
                    eta=np.histogram(eta, bins=edges["eta"])[0],
                    pt=np.histogram(central, bins=edges["pt"])[0],
                )
    events = histograms.write(output)
    payload.report(job, events=events, events_read=events)


def split(chunk: Any, *branches: str) -> list[list[Any]]:
    """Each jagged branch as one numpy array per event; walking awkward's own events costs 1 ms each."""
    import awkward as ak
    import numpy as np

    columns = []
    for branch in branches:
        ends = np.cumsum(ak.to_numpy(ak.num(chunk[branch])))[:-1]
        columns.append(np.split(ak.to_numpy(ak.flatten(chunk[branch])), ends))
    return columns


if __name__ == "__main__":
    payload.run(main)
