"""Run the module's self tests inside 3D Slicer and say how each ended.

    Slicer --testing --no-splash --additional-module-paths LiverMargin --python-script Testing/Slicer/run_all.py

The exit code is 0 when every test has passed, 1 otherwise.
"""

import traceback

import slicer


def run_all() -> int:
    """Return how many tests have failed; one line for each is printed."""
    from LiverMargin import LiverMarginTest

    names = sorted(name for name in dir(LiverMarginTest) if name.startswith("test_"))
    failed = 0
    for name in names:
        test = LiverMarginTest()
        try:
            test.setUp()
            getattr(test, name)()
        except Exception:
            failed += 1
            print(f"FAILED {name}", flush=True)
            traceback.print_exc()
        else:
            print(f"passed {name}", flush=True)
    print(f"{len(names) - failed} passed, {failed} failed", flush=True)
    return failed


if __name__ == "__main__":
    slicer.util.exit(1 if run_all() else 0)
