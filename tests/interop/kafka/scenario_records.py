"""Records: what one client writes, each other reads the same; in Java's partition; compressed; large."""

import os

from clients import CODECS, LANGUAGES, Producer, Record, check, consume, equal, produce

MIB = 1 << 20
# One of each kind that a partitioner could see differently: empty, short, each length mod 4, bytes above 127, long.
KEYS = [b"", b"a", b"ab", b"abc", b"abcd", b"user-1", b"\xff\x80\x00\x7f", "Zürich".encode(), b"k" * 301, *(b"%d" % n for n in range(40))]


def create(broker, tools, topic, partitions, *config):
    more = [part for one in config for part in ("--config", one)]
    tools.run("kafka-topics", "--bootstrap-server", broker.bootstrap, "--create", "--topic", topic, "--partitions", str(partitions), *more)


def keys(broker, tools):
    """One key is in one partition, whoever writes it: Java's."""
    create(broker, tools, "keys", 7)
    for language in LANGUAGES:
        produce(tools, language, broker.bootstrap, [Record("keys", language.encode(), key) for key in KEYS])
    where = {}
    for record in consume(tools, "java", broker.bootstrap, ["keys"], len(KEYS) * len(LANGUAGES)):
        where.setdefault(record.value.decode(), {})[record.key] = record.partition
    for language in LANGUAGES:
        equal(f"{language} puts each key where Java does", where[language], where["java"])
    check("and that is not one partition for all", len(set(where["java"].values())) == 7, where["java"])


def compression(broker, tools):
    """Five codecs from four clients, and four clients that read what all wrote."""
    create(broker, tools, "codecs", 3)
    wanted = []
    for language in LANGUAGES:
        records = [
            Record(
                "codecs",
                None if n == 7 else b"" if n == 8 else f"{codec} {n} ".encode() * 20,
                key=None if n == 9 else f"{language}-{codec}-{n}".encode(),
                headers=[("from", language.encode()), ("bytes", b"\x00\xff"), ("empty", b"")],
                timestamp=1_700_000_000_000 + len(wanted) + n,
                compression=codec,
            )
            for codec in CODECS
            for n in range(12)
        ]
        answers = produce(tools, language, broker.bootstrap, records)
        wanted += records
        places = {(answer["partition"], answer["offset"]) for answer in answers if "offset" in answer}
        # kafkajs tells only a request's first offsets.
        check(f"{language} wrote with each codec", len(places) == (0 if language == "kafkajs" else len(records)), places)
    wanted = sorted(map(repr, (record.content() for record in wanted)))
    seen = set()
    for language in LANGUAGES:
        records = consume(tools, language, broker.bootstrap, ["codecs"], len(wanted))
        # A header by its name and value; kafkajs keeps them in an object, by name.
        equal(f"{language} reads each as it was written", sorted(map(repr, (record.content() for record in records))), wanted)
        seen.add(tuple(sorted(map(repr, (record.whole() for record in records)))))
    equal("and all see one log", len(seen), 1)
    if (segments := broker.segments("codecs")) is not None:
        codecs = set()
        for segment in segments:
            said = tools.run("kafka-dump-log", "--files", segment)
            codecs |= {line.split("compresscodec: ")[1].split(" ")[0].lower() for line in said.splitlines() if "compresscodec: " in line}
        equal("the log holds them as they were sent", codecs, set(CODECS))


def large(broker, tools):
    """10 MiB where the topic allows it; where not, the client's own error for it."""
    create(broker, tools, "large", 1, f"max.message.bytes={11 * MIB}")
    create(broker, tools, "small", 1, f"max.message.bytes={MIB}")
    ten = os.urandom(10 * MIB)
    for at, language in enumerate(LANGUAGES):
        produce(tools, language, broker.bootstrap, [Record("large", ten, key=language.encode()), Record("large", b"small", key=b"s")])
        print(f"  ok  {language} writes 10 MiB", flush=True)
        producer = Producer(tools, language, broker.bootstrap)
        producer.send(Record("small", os.urandom(2 * MIB), key=language.encode()))
        [answer] = producer.finish()
        told = answer.get("error", "").lower().replace("_", "")
        check(f"{language} is told that 2 MiB are too large", "toolarge" in told or "sizetoolarge" in told, answer)
        produce(tools, language, broker.bootstrap, [Record("small", b"fits", key=language.encode())])
    for language in LANGUAGES:
        records = consume(tools, language, broker.bootstrap, ["large"], 2 * len(LANGUAGES))
        large = [record for record in records if record.key != b"s"]
        check(f"{language} reads 10 MiB records, byte for byte", [r.value == ten for r in large] == [True] * len(LANGUAGES), len(large))
        keys = [record.key.decode() for record in consume(tools, language, broker.bootstrap, ["small"], len(LANGUAGES))]
        equal(f"{language}: what was refused is not there", keys, list(LANGUAGES))


large.settings = {"sluice": {"limits-record-bytes": 11 * MIB}}
