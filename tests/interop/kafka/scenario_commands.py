"""The commands of Kafka's and kafkajs' own documents, as printed there, and Kafka's tools for administration."""

import json
import subprocess

from clients import NEWEST, PRINTED, Process, check, equal, eventually

COUNT = 200


def commands(broker, tools):
    """What a reader of Kafka's quick start types, with both versions of the tools, and kafkajs' front page beside it."""
    at = ("--bootstrap-server", broker.bootstrap)
    for version in (PRINTED, NEWEST):
        said = tools.run("kafka-topics", "--version", version=version)
        check(f"{version}: kafka-topics --version", version in said, said)
        made = ("--create", "--topic", "my_topic", "--partitions", "1", "--replication-factor", "1")
        said = tools.run("kafka-topics", *at, *made, version=version)
        check(f"{version}: kafka-topics --create", "Created topic my_topic." in said, said)
        said = tools.run("kafka-topics", *at, *made, version=version, fails=True)
        check(f"{version}: a second time it exists", "TopicExistsException" in said and "my_topic" in said, said)
        said = tools.run("kafka-topics", *at, "--list", version=version)
        check(f"{version}: kafka-topics --list", "my_topic" in said.split(), said)
        keyed = ("--topic", "my_topic", "--property", "parse.key=true", "--property", "key.separator=:")
        tools.run("kafka-console-producer", *at, *keyed, version=version, stdin="user-0:first\nuser-1:second\n")
        ts_node(tools, "producer.ts", broker.bootstrap)
        reader = tools.start(
            "kafka-console-consumer", *at, "--topic", "my_topic", "--from-beginning", "--property", "print.key=true",
            "--property", "key.separator= : ", version=version,
        )
        try:
            wanted = ["user-0 : first", "user-1 : second", 'user-1 : {"action":"login"}', 'user-2 : {"action":"logout"}']
            first = reader.line()
            # The newer tools would like the property under another name.
            shown = [reader.line() if first.startswith("Option --property is deprecated") else first]
            equal(f"{version}: kafka-console-consumer shows all in order", shown + [reader.line() for _ in wanted[1:]], wanted)
        finally:
            reader.stop()
        kcat(broker)
        said = ts_node(tools, "consumer.ts", broker.bootstrap, "5")
        places = [line.split()[:3] for line in said.splitlines() if line.startswith("my_topic ")]
        equal("kafkajs' consumer shows all in order", places, [["my_topic", "0", str(n)] for n in range(5)])
        tools.run("kafka-consumer-groups", *at, "--delete", "--group", "test-group", version=version)
        tools.run("kafka-topics", *at, "--delete", "--topic", "my_topic", version=version)
        said = tools.run("kafka-topics", *at, "--list", version=version)
        check(f"{version}: kafka-topics --delete", "my_topic" not in said.split(), said)


def ts_node(tools, *arguments):
    """`npx ts-node producer.ts`, as on kafkajs' front page."""
    done = subprocess.run(
        ["npx", "--no-install", "ts-node", *arguments],
        cwd=tools.folder / "kafka-node", capture_output=True, text=True, timeout=60, check=False,
    )
    check(f"npx ts-node {arguments[0]}", done.returncode == 0, done.stdout + done.stderr)
    return done.stdout


def kcat(broker):
    """kcat's four modes."""
    def run(*arguments, stdin=""):
        done = subprocess.run(
            ["kcat", "-b", broker.bootstrap, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        check(f"kcat {' '.join(arguments)}", done.returncode == 0, done.stdout + done.stderr)
        return done.stdout

    told = json.loads(run("-L", "-J", "-t", "my_topic"))
    equal("kcat sees the partition and its leader", [p["leader"] for p in told["topics"][0]["partitions"]], [told["brokers"][0]["id"]])
    run("-P", "-t", "my_topic", "-K:", "-H", "from=kcat", "-z", "lz4", stdin="user-3:third\n")
    said = run("-C", "-t", "my_topic", "-o", "beginning", "-e", "-q", "-f", "%o %k=%s %h\\n").splitlines()
    equal("kcat reads all", [line.split(" ")[0] for line in said], [str(n) for n in range(5)])
    equal("kcat reads its own header", said[4], "4 user-3=third from=kcat")
    said = run("-Q", "-t", "my_topic:0:-1")
    check("kcat asks for the end", said.strip().endswith("offset 5"), said)


def administration(broker, tools):
    """Kafka's tools for topics, configurations, offsets, groups."""
    at = ("--bootstrap-server", broker.bootstrap)
    said = tools.run("kafka-broker-api-versions", *at)
    check("kafka-broker-api-versions: Produce and Fetch", "Produce(0): " in said and "Fetch(1): " in said, said)
    check("its newest tools know every request", "UNKNOWN(" not in said, said)
    said = tools.run("kafka-cluster", "cluster-id", *at)
    check("kafka-cluster cluster-id", "Cluster ID: " in said, said)

    tools.run("kafka-topics", *at, "--create", "--topic", "a", "--partitions", "2", "--config", "retention.ms=3600000")
    said = tools.run("kafka-topics", *at, "--describe", "--topic", "a")
    check("--describe shows the topic", "PartitionCount: 2" in said and "ReplicationFactor: 1" in said, said)
    check("--describe shows its configuration", "retention.ms=3600000" in said, said)
    check("--describe shows leader and in-sync replicas", said.count("Isr: ") == 2 and "Leader: none" not in said, said)
    tools.run("kafka-topics", *at, "--alter", "--topic", "a", "--partitions", "3")
    said = tools.run("kafka-topics", *at, "--describe", "--topic", "a")
    check("--alter adds a partition", "PartitionCount: 3" in said, said)
    said = tools.run("kafka-topics", *at, "--create", "--topic", "bad", "--config", "no.such.key=1", fails=True)
    check("an unknown configuration is refused by name", "no.such.key" in said, said)
    said = tools.run("kafka-topics", *at, "--create", "--topic", "not/allowed", fails=True)
    check("a name that is no name is refused", "InvalidTopic" in said or "illegal" in said or "invalid" in said, said)

    topic = ("--entity-type", "topics", "--entity-name", "a")
    tools.run("kafka-configs", *at, "--alter", *topic, "--add-config", "retention.bytes=1000000,cleanup.policy=[compact,delete]")
    said = tools.run("kafka-configs", *at, "--describe", *topic)
    both = "retention.bytes=1000000" in said and "cleanup.policy=compact,delete" in said
    check("kafka-configs sets and shows", both, said)
    tools.run("kafka-configs", *at, "--alter", *topic, "--delete-config", "retention.bytes,cleanup.policy")
    said = tools.run("kafka-configs", *at, "--describe", *topic, "--all")
    values = dict(line.split()[0].split("=", 1) for line in said.splitlines() if line.startswith("  "))
    defaults = {name: values.get(name) for name in ("cleanup.policy", "retention.bytes", "retention.ms")}
    equal("kafka-configs takes back, and shows all", defaults, {"cleanup.policy": "delete", "retention.bytes": "-1", "retention.ms": "3600000"})

    lines = "".join(f"{n}\n" for n in range(10))
    tools.run("kafka-topics", *at, "--create", "--topic", "b", "--partitions", "1")
    tools.run("kafka-console-producer", *at, "--topic", "b", stdin=lines)
    said = tools.run("kafka-get-offsets", *at, "--topic", "b")
    equal("kafka-get-offsets: the end", said.strip(), "b:0:10")
    requests = json.dumps({"partitions": [{"topic": "b", "partition": 0, "offset": 4}], "version": 1})
    path = tools.folder / "delete-records.json"
    path.write_text(requests)
    said = tools.run("kafka-delete-records", *at, "--offset-json-file", path)
    check("kafka-delete-records", "low_watermark: 4" in said, said)
    said = tools.run("kafka-get-offsets", *at, "--topic", "b", "--time", "earliest")
    equal("kafka-get-offsets: the start moved", said.strip(), "b:0:4")

    group = ("--group", "readers")
    said = tools.run("kafka-console-consumer", *at, "--topic", "b", *group, "--from-beginning", "--max-messages", "6", "--timeout-ms", "20000")
    equal("a group reads from the start", said.split(), [str(n) for n in range(4, 10)])
    said = tools.run("kafka-consumer-groups", *at, "--list")
    check("kafka-consumer-groups --list", "readers" in said.split(), said)
    said = tools.run("kafka-consumer-groups", *at, "--describe", *group)
    row = [line.split() for line in said.splitlines() if line.startswith("readers")]
    equal("--describe: committed, end, lag", [line[1:6] for line in row], [["b", "0", "10", "10", "0"]])
    tools.run("kafka-consumer-groups", *at, "--reset-offsets", *group, "--topic", "b", "--to-offset", "7", "--execute")
    said = tools.run("kafka-console-consumer", *at, "--topic", "b", *group, "--max-messages", "3", "--timeout-ms", "20000")
    equal("after --reset-offsets it reads from there", said.split(), ["7", "8", "9"])
    tools.run("kafka-consumer-groups", *at, "--delete-offsets", *group, "--topic", "b")
    said = tools.run("kafka-consumer-groups", *at, "--delete", *group)
    said = tools.run("kafka-consumer-groups", *at, "--list")
    check("--delete", "readers" not in said.split(), said)


def performance(broker, tools):
    """The tools that people measure with, small; and the verifiable ones, which say what they did."""
    at = ("--bootstrap-server", broker.bootstrap)
    tools.run("kafka-topics", *at, "--create", "--topic", "load", "--partitions", "3")
    said = tools.run(
        "kafka-producer-perf-test", "--topic", "load", "--num-records", "5000", "--record-size", "100", "--throughput", "-1",
        "--producer-props", f"bootstrap.servers={broker.bootstrap}", "compression.type=lz4", "acks=all",
    )
    check("kafka-producer-perf-test", said.splitlines()[-1].startswith("5000 records sent"), said)
    said = tools.run("kafka-consumer-perf-test", *at, "--topic", "load", "--num-records", "5000", "--timeout", "20000")
    read = int(said.splitlines()[-1].split(",")[4])
    check("kafka-consumer-perf-test reads them", read >= 5000, said)

    tools.run("kafka-topics", *at, "--create", "--topic", "checked", "--partitions", "3")
    said = tools.run("kafka-verifiable-producer", *at, "--topic", "checked", "--max-messages", str(COUNT), "--acks", "-1")
    events = [json.loads(line) for line in said.splitlines()]
    sent = {event["value"] for event in events if event["name"] == "producer_send_success"}
    equal("kafka-verifiable-producer sends all", sent, {str(n) for n in range(COUNT)})
    command = [tools.kafka, "kafka-verifiable-consumer", *at, "--topic", "checked", "--group-id", "checkers"]
    values = []

    def on_line(line):
        event = json.loads(line)
        if event["name"] == "record_data":
            values.append(event["value"])

    arguments = ("--reset-policy", "earliest", "--verbose", "--enable-autocommit")
    reader = Process([*command, *arguments], tools.environment(NEWEST), "kafka-verifiable-consumer", on_line)
    try:
        eventually("kafka-verifiable-consumer reads all", lambda: len(values) >= COUNT, detail=lambda: len(values))
    finally:
        reader.stop()
    equal("each once", sorted(values, key=int), [str(n) for n in range(COUNT)])
