"""Whether a machine was quiet while something was measured: figures from a busy one are worth little."""

import os

# A share of the processors' time above which a measurement is called busy.
BUSY = 0.1


def ticks_of(pid):
    """Processor time of a process and its threads, in clock ticks; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, IndexError):
        return 0


def busy_and_all():
    """Of all processors since they were started: ticks not idle, and all."""
    with open("/proc/stat") as f:
        fields = [int(x) for x in f.readline().split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


class MachineLoad:
    """From its making to report(). pids: the processes that belong to the measurement, beside this one."""

    def __init__(self, pids):
        self.pids = [os.getpid(), *pids]
        self.load, self.own, (self.busy, self.all) = (
            os.getloadavg()[0],
            self.own_ticks(),
            busy_and_all(),
        )

    def own_ticks(self):
        return sum(map(ticks_of, self.pids))

    def report(self):
        """Call while the processes still run."""
        busy, every = busy_and_all()
        others = max(0, busy - self.busy - (self.own_ticks() - self.own))
        share = others / max(1, every - self.all)
        return {
            "load_average_before": self.load,
            "others_share": round(share, 3),
            "busy_machine": share > BUSY,
        }


def warn(report, say):
    if report["busy_machine"]:
        say(
            f"the machine was busy: {100 * report['others_share']:.0f} % of its processor time went to other programs, "
            f"so these figures are worth little"
        )
