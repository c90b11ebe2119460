"""librdkafka, by confluent-kafka, under the common protocol; see ../clients.py."""

import base64
import json
import os
import queue
import signal
import sys
import threading

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

mode, options = sys.argv[1], dict(pair.split("=", 1) for pair in sys.argv[2:])
bootstrap = {
    "bootstrap.servers": options["bootstrap"],
    "log_level": 3,
    "reconnect.backoff.max.ms": 500,
    "message.max.bytes": 64 << 20,
}
lock = threading.Lock()


def say(**what):
    line = json.dumps({name: value for name, value in what.items() if value is not None})
    with lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def text(value):
    return None if value is None else base64.b64encode(value).decode()


def raw(value):
    return None if value is None else base64.b64decode(value)


def produce():
    producers, lines = {}, queue.Queue()

    def make(compression):
        return Producer(
            bootstrap
            | {
                "compression.type": compression,
                "linger.ms": 5,
                "enable.idempotence": options.get("idempotent") == "true",
                # As Java's; librdkafka's own default is another hash.
                "partitioner": "murmur2_random",
                "message.timeout.ms": 60_000,
            }
        )

    def read():
        for line in sys.stdin:
            lines.put(json.loads(line))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=0.01)
        except queue.Empty:
            line = False
        for producer in producers.values():
            producer.poll(0)
        if line is None:
            break
        if not line:
            continue

        def answered(error, message, n=line["n"]):
            if error:
                say(n=n, error=error.name())
            else:
                say(n=n, partition=message.partition(), offset=message.offset())

        compression = line.get("compression", "none")
        producer = producers.setdefault(compression, producers.get(compression) or make(compression))
        more = {"partition": line["partition"]} if "partition" in line else {}
        if "timestamp" in line:
            more["timestamp"] = line["timestamp"]
        headers = [(name, raw(value)) for name, value in line.get("headers", [])]
        try:
            producer.produce(
                line["topic"], raw(line.get("value")), raw(line.get("key")), on_delivery=answered, headers=headers, **more
            )
        except KafkaException as error:
            say(n=line["n"], error=error.args[0].name())
    for producer in producers.values():
        assert producer.flush(60) == 0, "records are left that nobody answered for"


def show(message):
    say(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp=message.timestamp()[1],
        headers=[(name, text(value)) for name, value in message.headers() or []],
        key=text(message.key()),
        value=text(message.value()),
    )


def consume(group, count):
    consumer = Consumer(
        bootstrap
        | {
            "group.id": group,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "roundrobin",
            "session.timeout.ms": 6_000,
            "heartbeat.interval.ms": 500,
            "auto.commit.interval.ms": 300,
            "enable.auto.offset.store": False,
            "fetch.wait.max.ms": 250,
            "fetch.message.max.bytes": 16 << 20,
        }
    )
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    def joined(_, partitions):
        assignment = {}
        for one in partitions:
            assignment.setdefault(one.topic, []).append(one.partition)
        say(joined=assignment)

    consumer.subscribe(options["topic"].split(","), on_assign=joined)
    while count > 0 and not stopped.is_set():
        message = consumer.poll(0.1)
        if message is None:
            continue
        if message.error():
            if message.error().fatal():
                raise KafkaException(message.error())
            continue
        show(message)
        # Stored only now, so that what is committed was shown.
        try:
            consumer.store_offsets(message)
        except KafkaException as error:
            # The partition was taken away meanwhile.
            assert error.args[0].code() == KafkaError._STATE, error
        count -= 1
    consumer.close()


if mode == "produce":
    produce()
elif mode == "consume":
    consume(f"librdkafka-{os.getpid()}-{os.urandom(4).hex()}", int(options["count"]))
elif mode == "member":
    consume(options["group"], 1 << 60)
else:
    sys.exit(f"no such mode: {mode}")
