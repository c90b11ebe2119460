"""Kafka's kafka-dump-log reads our segments: after kill -9 under load, and after compaction."""

import re

from clients import CODECS, Producer, Record, check, equal, eventually, produce
from scenario_records import create

RECORD = re.compile(r"offset: (\d+) .* sequence: -?\d+ headerKeys: \[(.*?)\](?: key: (.*?))?(?: payload: (.*))?$")


def dump(tools, segments):
    """(file's place, offset) → (headers, key, value) of all that the tool shows; it must find nothing wrong."""
    records = []
    for segment in segments:
        said = tools.run("kafka-dump-log", "--deep-iteration", "--print-data-log", "--files", segment)
        problem = re.search(r"invalid|exception|mismatch|corrupt|isvalid: false", said, re.IGNORECASE)
        if problem:
            at = problem.start()
            check(f"kafka-dump-log {segment.name} finds nothing wrong", False, said[max(0, at - 300) : at + 700])
        for line in said.splitlines():
            if found := RECORD.search(line):
                records.append((segment.parent.name, int(found[1]), found[2], found[3], found[4]))
    return records


def files(broker, tools):
    create(broker, tools, "crashing", 2)
    create(broker, tools, "latest", 1, "cleanup.policy=compact", "segment.bytes=1048576", "min.cleanable.dirty.ratio=0.01", "segment.ms=1000")
    producer = Producer(tools, "librdkafka", broker.bootstrap, idempotent="true")
    crashing = [
        Record("crashing", b"value-%d " % n * 10, b"key-%d" % n, [("n", b"%d" % n)], compression=CODECS[n % len(CODECS)]) for n in range(3_000)
    ]
    producer.send(*crashing)
    eventually("records are written", lambda: len(producer.answers) > 500)
    broker.kill()
    acknowledged = {crashing[n].key.decode() for n, answer in list(producer.answers.items()) if "offset" in answer}
    broker.start()
    producer.finish_well()
    # A busy log has zeros ahead of its end, which the tool takes for damage; a clean stop takes them off.
    broker.stop()
    records = dump(tools, broker.segments("crashing"))
    broker.start()
    keys = [key for *_, key, _ in records]
    check("after a kill -9 all that was acknowledged is in the files", acknowledged <= set(keys), len(acknowledged))
    equal("and in the end every record, once", sorted(keys), sorted(record.key.decode() for record in crashing))
    values = {key: value for *_, key, value in records}
    equal("with its value", values["key-77"], crashing[77].value.decode().rstrip() + " ")
    equal("with its header", {headers for _, _, headers, _, _ in records}, {"n"})

    produce(tools, "java", broker.bootstrap, [Record("latest", b"%d" % n * 300, b"key-%d" % (n % 10)) for n in range(2_000)])
    produce(tools, "java", broker.bootstrap, [Record("latest", None, b"key-3")])

    def compacted():
        closed = broker.segments("latest")[:-1]
        return bool(closed) and len(dump(tools, closed)) < 500

    eventually("compaction takes place", compacted, 90)
    broker.stop()
    records = dump(tools, broker.segments("latest"))
    broker.start()
    latest = {}
    for _, offset, _, key, value in sorted(records, key=lambda record: record[1]):
        latest[key] = value
    wanted = {f"key-{n}": str(1990 + n) * 300 for n in range(10) if n != 3}
    equal("compacted segments hold the latest of each key", {key: value for key, value in latest.items() if key != "key-3"}, wanted)


files.settings = {"kafka": {"log.cleaner.min.compaction.lag.ms": 0, "log.retention.check.interval.ms": 1000}}
