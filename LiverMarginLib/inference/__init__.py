"""Running networks on volumes: slice by slice, block by block, behind a localiser; devices, runtimes, provenance."""
