"""One group of four clients on one topic: members join, leave and die, and no record is skipped."""

import threading
import time

from clients import Member, Producer, Record, check, equal, eventually
from scenario_records import create

PARTITIONS, RATE = 6, 100


def groups(broker, tools):
    create(broker, tools, "work", PARTITIONS)
    seen, lock = {}, threading.Lock()

    def member(language):
        last = {}

        def on_record(record):
            with lock:
                seen.setdefault((record.partition, record.offset), []).append(record.value)
            last[record.partition] = record.offset

        return Member(tools, language, broker.bootstrap, "work", "workers", on_record)

    producer = Producer(tools, "franz", broker.bootstrap)
    sent, over = 0, threading.Event()

    def load():
        nonlocal sent
        while not over.wait(0.05):
            producer.send(*(Record("work", b"%d" % n, b"key-%d" % (n % 50)) for n in range(sent, sent + RATE // 20)))
            sent += RATE // 20

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    members = {}

    def settled():
        """Every partition has exactly one owner, and everybody who is there has something."""
        owned = [p for one in members.values() for p in (one.assigned or {}).get("work", [])]
        return sorted(owned) == list(range(PARTITIONS)) and all((one.assigned or {}).get("work") for one in members.values())

    def shares():
        return {language: one.assigned for language, one in members.items()}

    def balanced(what, timeout=40):
        eventually(f"{what}: all partitions have one owner", settled, timeout, shares)
        counts = {language: one.count for language, one in members.items()}
        eventually(
            f"{what}: all members read on", lambda: all(one.count > counts[language] for language, one in members.items()), 20,
            lambda: f"{counts} and now {[(language, one.count) for language, one in members.items()]}",
        )

    def add(language):
        members[language] = member(language)

    add("java")
    balanced("java alone")
    add("kafkajs")
    balanced("kafkajs joined")
    add("librdkafka")
    add("franz")
    balanced("librdkafka and franz joined")
    members.pop("librdkafka").process.kill()
    balanced("librdkafka was killed")
    members.pop("java").process.stop()
    balanced("java left")
    add("librdkafka")
    balanced("librdkafka is back")
    members.pop("kafkajs").process.stop()
    balanced("kafkajs left")
    over.set()
    thread.join()
    producer.finish_well()

    def values():
        with lock:
            return {int(value) for read in seen.values() for value in read}

    eventually("every record was read", lambda: len(values()) >= sent, 30, lambda: sorted(set(range(sent)) - values())[:20])
    equal("and nothing else", values(), set(range(sent)))
    with lock:
        differ = {place: read for place, read in seen.items() if len(set(read)) > 1}
        again = sum(len(read) - 1 for read in seen.values())
    check("an offset has one value, whoever reads it", not differ, differ)
    print(f"  ok  {sent} records, {again} of them read again after a rebalance", flush=True)
    time.sleep(1)
    at = ("--bootstrap-server", broker.bootstrap, "--describe", "--group", "workers")
    said = tools.run("kafka-consumer-groups", *at)
    rows = [line.split() for line in said.splitlines() if line.startswith("workers")]
    equal("all is committed", [row[5] for row in rows], ["0"] * PARTITIONS)
    said = tools.run("kafka-consumer-groups", *at, "--members")
    equal("two members are left", len([line for line in said.splitlines() if line.startswith("workers")]), 2)
    said = tools.run("kafka-consumer-groups", *at, "--state")
    check("the group is stable", "Stable" in said and "roundrobin" in said, said)
    for one in members.values():
        one.process.stop()
