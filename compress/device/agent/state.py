"""Clocks, temperature, throttling and power: at one moment, and over a time."""

import glob
import os
import time
from typing import Dict, List, Optional

from .system import command_line, read_number, read_text
from .values import Json


def read_state(root: str = "/") -> Json:
    """Clocks, temperature, throttling and power right now; what the device does not tell is absent or None."""
    cpus = sorted(glob.glob(os.path.join(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq")))
    zones = glob.glob(os.path.join(root, "sys/class/thermal/thermal_zone*/temp"))
    temperatures = [value for value in (read_number(zone, 1000.0) for zone in zones) if value is not None]
    return {
        "governor": read_text(os.path.join(cpus[0], "scaling_governor")) if cpus else None,
        "clocks_mhz": [read_number(os.path.join(cpu, "scaling_cur_freq"), 1000.0) for cpu in cpus],
        "celsius": max(temperatures) if temperatures else None,
        "throttled": throttled(command_line("vcgencmd", "get_throttled")),
        "watts": watts(root),
        "load": os.getloadavg()[0],
    }


def throttled(line: Optional[str]) -> Optional[List[str]]:
    """Flags of `vcgencmd get_throttled` (raspberrypi.com/documentation, vcgencmd): now, and since boot."""
    if line is None or "0x" not in line:
        return None
    bits = int(line.split("0x")[1], 16)
    names = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
    now = [name for bit, name in enumerate(names) if bits >> bit & 1]
    return now + ["%s since boot" % name for bit, name in enumerate(names) if bits >> (bit + 16) & 1]


def watts(root: str = "/") -> Optional[Dict[str, Optional[float]]]:
    """Watts by rail from INA3221 monitors (Jetson): mW files of the older driver, mV x mA of hwmon; or None."""
    rails: Dict[str, Optional[float]] = {}
    for path in glob.glob(os.path.join(root, "sys/bus/i2c/drivers/ina3221x/*/iio:device*/in_power*_input")):
        label = read_text(path.replace("in_power", "rail_name_").replace("_input", "")) or os.path.basename(path)
        rails[label] = read_number(path, 1e3)
    for chip in glob.glob(os.path.join(root, "sys/class/hwmon/hwmon*")):
        if read_text(os.path.join(chip, "name")) != "ina3221":
            continue
        for label in glob.glob(os.path.join(chip, "in*_label")):
            number = os.path.basename(label)[len("in") : -len("_label")]
            volts = read_number(os.path.join(chip, "in%s_input" % number), 1e3)
            amperes = read_number(os.path.join(chip, "curr%s_input" % number), 1e3)
            if volts is not None and amperes is not None:
                rails[read_text(label) or number] = volts * amperes
    return rails or None


class Watcher(object):
    """Highest temperature, and power by rail, over the readings between chunks, at most one a second."""

    def __init__(self) -> None:
        self.celsius: List[float] = []
        self.watts: List[Dict[str, Optional[float]]] = []
        self.next = 0.0

    def __call__(self) -> None:
        if time.perf_counter() < self.next:
            return
        self.next = time.perf_counter() + 1.0
        state = read_state()
        if state["celsius"] is not None:
            self.celsius.append(state["celsius"])
        if state["watts"]:
            self.watts.append(state["watts"])

    def summary(self) -> Json:
        rails = sorted(set(rail for reading in self.watts for rail in reading))
        means, deviations, counts = {}, {}, {}
        for rail in rails:
            readings = [reading.get(rail) for reading in self.watts]
            values = [value for value in readings if value is not None]
            mean = sum(values) / len(values) if values else None
            means[rail], counts[rail] = mean, len(values)
            if mean is not None and len(values) > 1:
                deviations[rail] = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
        return {
            "peak_celsius": max(self.celsius) if self.celsius else None,
            "mean_watts": means or None,
            "watts_deviation": deviations or None,
            "watts_readings": counts or None,
        }
