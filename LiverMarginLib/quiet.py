"""What libraries say of their own accord, kept from people's eyes."""

from __future__ import annotations

import logging
import warnings


def silence_libraries() -> None:
    """Keep warnings of reading and plotting libraries from standard error; ours are events.

    pydicom quotes the values that it finds odd, and these may be a patient's name.
    """
    warnings.simplefilter("ignore")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
