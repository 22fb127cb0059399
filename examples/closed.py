"""Keeps processes among themselves, whatever the shell's settings for ROS 2 say. The demo and the tests use it.

The settings that are dropped belong to somebody's robot: another middleware, a discovery server, a domain, formats of
log lines. Where ROS 2 itself is found stays as it is, except in a virtual environment that has its own.
"""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import MutableMapping
from pathlib import Path

# Beginnings of names, as in the Makefile.
SETTINGS = ("ROS_", "RMW_", "RCL_", "RCUTILS_", "FASTDDS_", "FASTRTPS_", "CYCLONEDDS_", "ZENOH_")
PLACES = ("AMENT_", "COLCON_", "CMAKE_PREFIX_PATH", "PYTHONPATH", "ROS_DISTRO", "ROS_VERSION", "ROS_PYTHON_VERSION")
# Above 101 the ports of DDS reach those that Linux gives away to anybody.
DOMAINS = range(1, 101)

_claims: list[socket.socket] = []  # held until this process ends


def close(environment: MutableMapping[str, str]) -> None:
    """Takes the settings out of an environment, and gives it a domain that nobody else on this machine uses."""
    own = sys.prefix != sys.base_prefix and Path(sys.prefix, "share", "ament_index").is_dir()
    for name in list(environment):
        place = name.startswith(PLACES)
        if (place and own) or (not place and name.startswith(SETTINGS)):
            del environment[name]
    if own:
        environment["AMENT_PREFIX_PATH"] = sys.prefix
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    environment["ROS_DOMAIN_ID"] = str(claim_domain())


def claim_domain() -> int:
    """A domain without participants, claimed for the life of this process. Raises RuntimeError when there is none."""
    busy = _ports_in_use()
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        first = 7400 + 250 * domain
        if not busy.isdisjoint(range(first, first + 250)):
            continue
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", first + 9))  # participants use the first two ports and those from 10
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return domain
    raise RuntimeError(f"every ROS domain from {DOMAINS[0]} to {DOMAINS[-1]} is in use on this machine")


def _ports_in_use() -> set[int]:
    """UDP ports, by Linux; elsewhere none, and claims alone keep runs apart."""
    ports = set()
    for table in (Path("/proc/net/udp"), Path("/proc/net/udp6")):
        if table.is_file():
            for line in table.read_text().splitlines()[1:]:
                ports.add(int(line.split()[1].rpartition(":")[2], 16))
    return ports
