"""Four Kafka clients behind one protocol, and Kafka's own tools.

A worker is a program around one client library: `WORKER MODE NAME=VALUE…`. It speaks JSON lines; keys, values and the
values of headers are base64, and what is absent is null in Kafka.

    produce bootstrap= [idempotent=true]     in:  {"n","topic","partition"?,"key"?,"value"?,"timestamp"?,"headers"?,"compression"?}
                                             out: {"n","partition"?,"offset"?} or {"n","error"}, one for each line, in any order
    consume bootstrap= topic=A,B count=N     out: the first N records from the beginning: {"topic","partition","offset",…}
    member  bootstrap= topic=A,B group=G     the same as a member of a group, until SIGTERM, on which it leaves; commits only
                                             what it has written out. {"joined":{topic:[partition]}} at each assignment
"""

import base64
import json
import os
import pathlib
import queue
import subprocess
import threading
import time

HERE = pathlib.Path(__file__).parent
LANGUAGES = ("kafkajs", "librdkafka", "franz", "java")
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
NEWEST, PRINTED = "4.3.1", "4.1.1"


def encode(value):
    return None if value is None else base64.b64encode(value).decode()


def decode(value):
    return None if value is None else base64.b64decode(value)


class Failed(AssertionError):
    """A check that did not hold."""


def check(what, held, detail=""):
    if not held:
        raise Failed(f"{what}: {str(detail)[:1500]}")
    print(f"  ok  {what}", flush=True)


def equal(what, left, right):
    check(what, left == right, f"{str(left)[:700]} is not {str(right)[:700]}")


class Record:
    """A record as it is to be written, and as it is read (with its place)."""

    def __init__(self, topic, value, key=None, headers=(), timestamp=None, partition=None, offset=None, compression=None):
        self.topic, self.key, self.value, self.partition, self.offset = topic, key, value, partition, offset
        self.headers, self.timestamp, self.compression = [tuple(header) for header in headers], timestamp, compression

    def line(self, n):
        line = {"n": n, "topic": self.topic, "partition": self.partition, "timestamp": self.timestamp}
        line |= {"key": encode(self.key), "value": encode(self.value), "compression": self.compression}
        line["headers"] = [(name, encode(value)) for name, value in self.headers] or None
        return {name: value for name, value in line.items() if value is not None}

    @staticmethod
    def read(line):
        headers = [(name, decode(value)) for name, value in line.get("headers") or []]
        place = {name: line[name] for name in ("timestamp", "partition", "offset")}
        return Record(line["topic"], decode(line.get("value")), decode(line.get("key")), headers, **place)

    def content(self):
        return self.key, self.value, tuple(self.headers), self.timestamp

    def whole(self):
        return (self.topic, self.partition, self.offset, *self.content())


class Tools:
    """Where the programs are: what tests/interop/run installed."""

    def __init__(self, folder, shared):
        self.folder, self.kafka = pathlib.Path(folder), pathlib.Path(shared) / "tools" / "kafka"
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "sluice-kafka"
        self.libraries = pathlib.Path(os.environ.get("KAFKA_CACHE", cache)) / NEWEST / "libs"

    def worker(self, language):
        return {
            "kafkajs": ["node", self.folder / "kafka-node" / "worker.js"],
            "librdkafka": [self.folder / "kafka-venv" / "bin" / "python", HERE / "librdkafka" / "worker.py"],
            "franz": [self.folder / "franz"],
            "java": ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
            + ["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{self.folder / 'java'}:{self.libraries}/*", "Worker"],
        }[language]

    def environment(self, version):
        quick = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UseG1GC"
        return os.environ | {"KAFKA_VERSION": version, "KAFKA_OPTS": quick, "KAFKA_HEAP": "256m"}

    def run(self, tool, *arguments, version=NEWEST, stdin="", timeout=60, fails=False):
        """Runs one of Kafka's tools to its end, and gives what it wrote."""
        command = [self.kafka, tool, *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout, env=self.environment(version), check=False
        )
        said = done.stdout + done.stderr
        if (done.returncode != 0) != fails:
            raise Failed(f"{tool} {' '.join(map(str, arguments))}: exit status {done.returncode}\n{said[-2000:]}")
        return said if fails else done.stdout

    def start(self, tool, *arguments, version=NEWEST):
        """Starts one that does not end by itself. Its lines come by `Process.line`."""
        return Process([self.kafka, tool, *arguments], self.environment(version), tool)


class Process:
    """A child that writes lines; a thread reads them."""

    started = []

    @classmethod
    def kill_all(cls):
        """At a scenario's end, whatever it left."""
        for process in cls.started:
            if process.child.poll() is None:
                process.kill()
        cls.started.clear()

    def __init__(self, command, environment=None, name=None, on_line=None):
        self.name, self.lines = name or str(command[0]), queue.Queue()
        self.on_line = on_line or self.lines.put
        self.errors = []
        Process.started.append(self)
        self.child = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        self.threads = [threading.Thread(target=self._read, daemon=True), threading.Thread(target=self._errors, daemon=True)]
        for thread in self.threads:
            thread.start()

    def _read(self):
        for line in self.child.stdout:
            self.on_line(line.decode().rstrip("\n"))

    def _errors(self):
        for line in self.child.stderr:
            self.errors = [*self.errors[-30:], line.decode(errors="replace")]

    def line(self, timeout=40):
        try:
            return self.lines.get(timeout=timeout)
        except queue.Empty:
            raise Failed(f"{self.name} wrote nothing for {timeout} s; {''.join(self.errors)[-1500:]}") from None

    def send(self, *lines):
        self.child.stdin.write("".join(line + "\n" for line in lines).encode())
        self.child.stdin.flush()

    def end(self, timeout=60, status=(0,)):
        """Closes its input and waits for its end."""
        try:
            self.child.stdin.close()
        except BrokenPipeError:
            pass
        return self.wait(timeout, status)

    def wait(self, timeout=60, status=(0,)):
        try:
            ended = self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise Failed(f"{self.name} did not end within {timeout} s; {''.join(self.errors)[-1500:]}") from None
        for thread in self.threads:
            thread.join(10)
        if ended not in status:
            raise Failed(f"{self.name} ended with {ended}: {''.join(self.errors)[-2500:]}")
        return self

    def stop(self):
        """Asks it to end, and waits. 143: a Java program that was asked."""
        self.child.terminate()
        return self.wait(30, (0, 143, -15))

    def kill(self):
        self.child.kill()
        self.child.wait()


class Producer:
    """A `produce` worker. Lines go in at any time; `answers` fills up by `n`."""

    def __init__(self, tools, language, bootstrap, **options):
        more = [f"{name}={value}" for name, value in options.items()]
        command = [*tools.worker(language), "produce", f"bootstrap={bootstrap}", *more]
        self.records, self.answers, self.language = [], {}, language
        self.process = Process(command, name=f"{language} produce", on_line=self._answer)

    def _answer(self, line):
        answer = json.loads(line)
        assert answer["n"] not in self.answers, f"{self.language} answered twice for {answer}"
        self.answers[answer["n"]] = answer

    def send(self, *records):
        first = len(self.records)
        self.records += records
        self.process.send(*(json.dumps(record.line(first + at)) for at, record in enumerate(records)))

    def finish(self, timeout=90):
        """Waits until all are answered; gives the answers in the order of the records."""
        self.process.end(timeout)
        missing = len(self.records) - len(self.answers)
        if missing:
            raise Failed(f"{self.language}: {missing} of {len(self.records)} records were not answered")
        return [self.answers[n] for n in range(len(self.records))]

    def finish_well(self, timeout=90):
        """The same, where every record has to be stored."""
        answers = self.finish(timeout)
        wrong = [answer for answer in answers if "error" in answer]
        if wrong:
            raise Failed(f"{self.language}: {len(wrong)} of {len(answers)} records were refused: {wrong[:3]}")
        return answers


def produce(tools, language, bootstrap, records, **options):
    producer = Producer(tools, language, bootstrap, **options)
    producer.send(*records)
    return producer.finish_well()


def consume(tools, language, bootstrap, topics, count, timeout=60):
    """The first `count` records of the topics."""
    more = [f"bootstrap={bootstrap}", f"topic={','.join(topics)}", f"count={count}"]
    process = Process([*tools.worker(language), "consume", *more], name=f"{language} consume")
    records, until = [], time.monotonic() + timeout
    while len(records) < count:
        try:
            line = json.loads(process.line(max(0.1, until - time.monotonic())))
        except Failed as failed:
            raise Failed(f"{language} read {len(records)} of {count} records; {failed}") from None
        if "joined" not in line:
            records.append(Record.read(line))
    process.end(30)
    return records


class Member:
    """A `member` worker: a member of a group. Everything that it reads goes to `on_record`."""

    def __init__(self, tools, language, bootstrap, topic, group, on_record):
        self.language, self.on_record, self.assigned, self.count = language, on_record, None, 0
        command = [*tools.worker(language), "member", f"bootstrap={bootstrap}", f"topic={topic}", f"group={group}"]
        self.process = Process(command, name=f"{language} member", on_line=self._line)

    def _line(self, text):
        line = json.loads(text)
        if "joined" in line:
            self.assigned = line["joined"]
        else:
            self.count += 1
            self.on_record(Record.read(line))


def eventually(what, condition, timeout=30, detail=lambda: ""):
    """Waits for it, up to a bound."""
    until = time.monotonic() + timeout
    while not (held := condition()) and time.monotonic() < until:
        time.sleep(0.05)
    check(what, held, detail())
