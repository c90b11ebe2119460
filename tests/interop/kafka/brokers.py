"""What the scenarios run against: Sluice, or a real Apache Kafka to hold the scenarios themselves against."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time

from clients import Failed


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Sluice:
    """A server of ours on a folder of its own; a start after a stop or a kill is on the same addresses."""

    is_sluice = True

    def __init__(self, binary, folder, **settings):
        self.binary, self.folder = str(binary), pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.ports = {"http": free_port(), "kafka": free_port()}
        self.settings = {"peer": "off", "data": self.folder / "data", "log-format": "json"} | settings
        self.log = open(self.folder / "broker.log", "ab")
        self.start()

    bootstrap = property(lambda self: f"127.0.0.1:{self.ports['kafka']}")
    url = property(lambda self: f"http://127.0.0.1:{self.ports['http']}")

    def start(self):
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        doors = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        settings = doors | self.settings | {"ready-file": ready}
        command = [self.binary, *(f"--{name}={value}" for name, value in settings.items())]
        self.child = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        until = time.monotonic() + 30
        while not ready.exists():
            if self.child.poll() is not None or time.monotonic() > until:
                raise Failed(f"the server did not start:\n{self.end_of_log()}")
            time.sleep(0.002)
        said = json.loads(ready.read_text())
        if "kafka" not in said:
            raise Failed(f"the server opened no Kafka door: {said}")

    def stop(self):
        self.child.terminate()
        status = self.child.wait(40)
        if status != 0:
            raise Failed(f"the server ended with {status} after SIGTERM:\n{self.end_of_log()}")

    def kill(self):
        if self.child.poll() is not None:
            raise Failed(f"the server had ended with {self.child.poll()}:\n{self.end_of_log()}")
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()

    def close(self):
        """At a scenario's end: it must still be there, and drain."""
        if self.child.poll() is not None:
            raise Failed(f"the server had ended with {self.child.poll()}:\n{self.end_of_log()}")
        self.stop()

    def end_of_log(self):
        return (self.folder / "broker.log").read_text(errors="replace")[-3000:]

    def segments(self, topic):
        """The log files of a topic's partitions, which `partition.meta` names."""
        folders = [meta.parent for meta in self.folder.glob("data/**/partition.meta") if topic.encode() in meta.read_bytes()]
        return sorted(file for folder in folders for file in folder.glob("*.log"))


class Kafka:
    """Apache Kafka's broker, one node."""

    is_sluice = False

    def __init__(self, tools, folder, heap="512m", **settings):
        self.tools, self.folder, self.heap = tools, pathlib.Path(folder), heap
        # What a Sluice server has by default, so that both are asked the same.
        defaults = {"num.partitions": 3, "message.max.bytes": (1 << 20) + 4096, "log.cleaner.backoff.ms": 500}
        self.settings = [f"{name}={value}" for name, value in (defaults | settings).items()]
        self.port = free_port()
        self.start()

    bootstrap = property(lambda self: f"127.0.0.1:{self.port}")

    def _call(self, *arguments):
        done = subprocess.run(
            [self.tools.kafka, *map(str, arguments)], stdout=subprocess.PIPE, text=True, timeout=120, env=os.environ, check=False
        )
        if done.returncode != 0:
            raise Failed(f"kafka {arguments[0]} ended with {done.returncode}")
        return done.stdout

    def start(self):
        said = self._call("start", self.folder, "--port", self.port, "--heap", self.heap, *self.settings)
        self.pid, self.ready_ms = map(int, said.split()[1:])

    def stop(self):
        self._call("stop", self.folder)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        while True:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.002)

    close = stop

    def end_of_log(self):
        return (self.folder / "broker.log").read_text(errors="replace")[-3000:]

    def segments(self, topic):
        return sorted(self.folder.glob(f"logs/{topic}-[0-9]*/*.log"))
