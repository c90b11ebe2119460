"""Real Kafka clients against a broker: python scenarios.py BROKER TOOLS SHARED FOLDER [SCENARIO…]

BROKER is a Sluice binary, or `kafka` for a real Apache Kafka: the same scenarios run against both, and one that Kafka
fails is wrong. Each scenario gets a broker of its own. Those in ONLY_SLUICE are about its other doors.
"""

import pathlib
import sys
import time
import traceback

from brokers import Kafka, Sluice
from clients import Process, Tools
from scenario_commands import administration, commands, performance
from scenario_doors import doors
from scenario_files import files
from scenario_groups import groups
from scenario_records import compression, keys, large
from scenario_restart import restart

SCENARIOS = (commands, administration, performance, keys, compression, large, restart, groups, files, doors)
ONLY_SLUICE = (doors,)


def main(kind, tools, shared, folder, *names):
    tools, folder = Tools(tools, shared), pathlib.Path(folder)
    chosen = [scenario for scenario in SCENARIOS if scenario.__name__ in names or not names]
    unknown = set(names) - {scenario.__name__ for scenario in SCENARIOS}
    if unknown:
        sys.exit(f"no such scenario: {', '.join(sorted(unknown))}")
    failures = []
    started = time.monotonic()
    for scenario in chosen:
        name = scenario.__name__
        if kind == "kafka" and scenario in ONLY_SLUICE:
            print(f"--- {name}: only Sluice has it")
            continue
        print(f"--- {name}", flush=True)
        since = time.monotonic()
        broker = None
        settings = getattr(scenario, "settings", {})
        try:
            if kind == "kafka":
                broker = Kafka(tools, folder / name, **settings.get("kafka", {}))
            else:
                broker = Sluice(kind, folder / name, **settings.get("sluice", {}))
            scenario(broker, tools)
            Process.kill_all()
            broker.close()
        except Exception:  # noqa: BLE001 - each scenario gets its turn
            traceback.print_exc(file=sys.stdout)
            Process.kill_all()
            failures.append(name)
            if broker:
                print(f"the end of the broker's log:\n{broker.end_of_log()}")
                try:
                    broker.kill()
                except Exception as error:  # noqa: BLE001
                    print(f"and it could not be ended: {error}")
        print(f"--- {name}: {'FAILED' if name in failures else 'ok'}, {time.monotonic() - since:.0f} s", flush=True)
    print(f"kafka clients: {len(chosen) - len(failures)} passed, {len(failures)} failed ({', '.join(failures) or 'none'}), "
          f"{time.monotonic() - started:.0f} s")
    sys.exit(bool(failures))


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
