"""The broker dies under load. Idempotent producers lose nothing and write nothing twice; everybody reconnects."""

import time

from clients import Failed, LANGUAGES, Member, Producer, Record, check, consume, equal, eventually
from scenario_records import create

SECONDS, RATE = 3, 200


def restart(broker, tools):
    create(broker, tools, "steady", 3)
    read = {}

    def on_record(record):
        read.setdefault((record.partition, record.offset), record.value)

    reader = Member(tools, "librdkafka", broker.bootstrap, "steady", "watchers", on_record)
    producers = [Producer(tools, language, broker.bootstrap, idempotent="true") for language in LANGUAGES]
    sent = 0

    def load(seconds):
        """Each producer writes at the rate, whether the broker is there or not."""
        nonlocal sent
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for producer in producers:
                producer.send(*(Record("steady", f"{producer.language}-{n}".encode(), f"key-{n % 5}".encode()) for n in range(sent, sent + RATE // 20)))
            sent += RATE // 20
            time.sleep(0.05)

    load(SECONDS)
    for how in ("kill", "stop"):
        before = [len(producer.answers) for producer in producers]
        load(0.2)
        eventually(
            f"all write, before the {how}", lambda: all(len(p.answers) > n for p, n in zip(producers, before)), 30,
            lambda: [len(producer.answers) for producer in producers],
        )
        getattr(broker, how)()
        load(1)
        broker.start()
        load(SECONDS)
    for producer in producers:
        producer.finish_well()
        print(f"  ok  {producer.language}: all {sent} records acknowledged", flush=True)
    records = consume(tools, "franz", broker.bootstrap, ["steady"], sent * len(LANGUAGES))
    by_value, order = {}, {}
    for record in records:
        by_value.setdefault(record.value.decode(), []).append((record.partition, record.offset))
        language, number = record.value.decode().rsplit("-", 1)
        order.setdefault((language, record.partition), []).append((record.offset, int(number)))
    twice = {value: places for value, places in by_value.items() if len(places) > 1}
    check("no record is there twice", not twice, dict(list(twice.items())[:5]))
    equal("every record is there", len(by_value), sent * len(LANGUAGES))
    for (language, partition), numbers in order.items():
        numbers = [number for _, number in sorted(numbers)]
        if numbers != sorted(numbers):
            raise Failed(f"{language} in partition {partition}: out of order")
    print("  ok  each producer's records are in order", flush=True)
    until = time.monotonic() + 30
    while len(read) < len(records) and time.monotonic() < until:
        time.sleep(0.1)
    equal("the reader that was there all the time read the same", read, {(r.partition, r.offset): r.value for r in records})
    reader.process.stop()
