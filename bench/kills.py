"""Kill the processes of a node at random under a load of series, and count what is lost.

``python bench/kills.py --kills 200`` needs Orthanc and some minutes; ``--each`` kills once at every
point instead, as the tests do. Brain extraction and the network have stand-ins (tests/faults);
everything else is the node itself. The exit status tells of anything lost, left or doubled.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

import kill_harness as harness  # noqa: E402

from mrisr_node.choices import Delivery  # noqa: E402
from mrisr_node.node.orthanc import OrthancProcess, free_port  # noqa: E402
from mrisr_node.node.supervisor import stop_on_signals  # noqa: E402
from mrisr_node.settings import load_settings  # noqa: E402

# So often a point is passed by each series, roughly: the n of the n-th time is drawn up to here.
_OFTEN = {"write": 12, "sync": 16, "rename": 8, "commit": 12, "instance": 12, "unlink": 4}


def _draw(count: int, seed: int) -> list[harness.Kill]:
    """Draw kills, each point as likely as any other."""
    chance = random.Random(seed)
    points = [(role, point) for role, names in harness.POINTS.items() for point in names]
    drawn = []
    for _ in range(count):
        role, point = chance.choice(points)
        often = _OFTEN.get(point.partition(".")[0], 2)
        drawn.append(harness.Kill(role, point, chance.randint(1, often)))
    return drawn


def main() -> int:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--each", action="store_true", help="once at every point, not at random")
    parser.add_argument("--load", type=int, default=4, help="series under way at any time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--delivery", type=Delivery, default=Delivery.STOW, choices=Delivery)
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for one kill")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        ports = {n: free_port() for n in ("receiver_port", "orthanc_http_port", "pacs_port")}
        settings = load_settings(
            data_dir=Path(place) / "node",
            checkpoint=("thin-small",),
            minimum_free_bytes=0,
            quiet_seconds=3.0,
            delivery=options.delivery,
            maximum_attempts=1000,
            delivery_attempts=1000,
            delivery_first_delay=0.2,
            # A report that went to a killed receiver is not waited for long.
            commitment_wait=10.0,
            network_timeout=10.0,
            **ports,
        )
        settings.data_dir.mkdir(parents=True)
        series = Path(place) / "load"
        series.mkdir()
        begun = time.monotonic()

        def say(line: str) -> None:
            print(line, flush=True)

        with stop_on_signals(), OrthancProcess(settings):
            figures = harness.run(
                settings,
                harness.every_point() if options.each else _draw(options.kills, options.seed),
                series,
                load=options.load,
                patience=options.patience,
                say=say,
            )
        print("\n".join(figures.lines()))
        print(f"whole run           {time.monotonic() - begun:.0f} s")
    good = (
        figures.acknowledged == figures.series * harness.SLICES
        and figures.done_once + figures.reopened >= figures.series
        and not (figures.lost or figures.duplicates or figures.unfinished or figures.orphans)
        and not (options.each and figures.not_reached)
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
