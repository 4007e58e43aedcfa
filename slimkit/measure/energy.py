"""Energy of an inference or of a run: measured where the hardware counts it, else modelled from CPU time."""

from __future__ import annotations

from collections.abc import Sequence

from slimkit.measure.latency import Latency
from slimkit.measure.power import Meter
from slimkit.results import Energy

# Between the design power per core of an EPYC 7763 (280 W, 64 cores) and of a Xeon 8380 (270 W, 40 cores).
WATTS_PER_CORE = 6.0


def per_inference(latency: Latency) -> Energy:
    """Return the energy of one image, mJ: RAPL's where the latency was measured with it, else modelled."""
    if latency.energy_mj is not None:
        return Energy(
            value=latency.energy_mj / latency.batch,
            unit="mJ",
            method="measured (RAPL)",
            leaves_out="memory outside the package, power supply; idle cores of the package are in it",
        )
    return _from_cpu_time(latency.cpu_ms / latency.batch, "mJ")


def of_run(cpu_seconds: float, meters: Sequence[Meter] = (), earlier: float = 0.0) -> Energy:
    """Return the energy of a run, kJ: of its meters, opened at its start, else modelled from its CPU time.

    `earlier` are CPU-seconds before the run was resumed, which the meters have not seen: counted in proportion.
    """
    if meters:
        names = " + ".join(sorted({meter.name for meter in meters}))
        return Energy(
            value=sum(meter.joules() for meter in meters) / 1e3 * (1 + earlier / cpu_seconds),
            unit="kJ",
            method=f"measured ({names})" + (", in proportion for the time before it was resumed" if earlier else ""),
            leaves_out="all that has no counter: power supply, cooling, network",
        )
    return _from_cpu_time((cpu_seconds + earlier) / 1e3, "kJ")


def _from_cpu_time(thousands: float, unit: str) -> Energy:
    """Return CPU time x power: milliseconds give mJ, kiloseconds give kJ."""
    return Energy(
        value=thousands * WATTS_PER_CORE,
        unit=unit,
        method=f"modelled (CPU time x {WATTS_PER_CORE:g} W per core)",
        constants={"watts_per_core": WATTS_PER_CORE},
        leaves_out="memory, idle cores, power supply, accelerators",
    )
