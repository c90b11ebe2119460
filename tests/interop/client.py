"""What a Python user writes with the client that openapi-python-client generates: python client.py URL"""

import importlib
import pkgutil
import sys
import time

import sluice_client.api
from sluice_client import Client, models

# The modules are named by operation, below a folder for each tag: find them by the operation alone.
operations = {
    name.rsplit(".", 1)[1]: name
    for _, name, is_package in pkgutil.walk_packages(sluice_client.api.__path__, "sluice_client.api.")
    if not is_package
}


def call(operation, **arguments):
    answer = importlib.import_module(operations[operation]).sync_detailed(client=client, **arguments)
    return answer.status_code, answer.parsed


client = Client(base_url=sys.argv[1])
topic = "from-python"
status, made = call("create_topic", body=models.NewTopic.from_dict({"name": topic, "partitions": 1}))
assert status == 201, made
batch = models.RecordBatch.from_dict({"records": [{"key": "a", "value": {"n": 1}}, {"key": "b", "text": "two"}]})
status, stored = call("produce_records", topic=topic, body=batch)
assert status == 200 and len(stored.results) == 2, stored
status, page = call("read_records", topic=topic)
assert status == 200 and [record.key for record in page.records] == ["a", "b"] and page.caught_up, page

# A queue: what was received is acknowledged.
status, queue = call("put_queue", queue="python-work", body=models.QueueDefinition(topic=topic))
assert status == 201 and queue.ready == 2, queue
status, got = call("receive_messages", queue="python-work", body=models.ReceiveMessages(max_=1))
assert status == 200 and got.messages[0].record.key == "a", got
verdicts = models.SettleMessages(ack=[message.lease for message in got.messages])
status, settled = call("settle_messages", queue="python-work", body=verdicts)
assert status == 200 and [result.status for result in settled.results] == ["settled"], settled

# A group: joined, read, committed, left.
member = {"group": "python-readers", "member": "one"}
for _ in range(100):
    status, place = call("join_group", **member, body=models.JoinGroupMember(topics=[topic]))
    assert status == 200, place
    if place.state == "stable":
        break
    time.sleep(0.05)
status, page = call("read_group_records", **member, epoch=place.epoch)
assert status == 200 and len(page.records) == 2, page
body = models.CommitGroupOffsets(epoch=place.epoch, cursor=page.next_cursor)
status, _ = call("commit_group_offsets", **member, body=body)
assert status == 204, status
status, _ = call("leave_group", **member)
status, group = call("get_group", group=member["group"])
assert status == 200 and group.lag == 0 and group.offsets[0].committed_offset == 2, group

status, problem = call("get_topic", topic="none")
assert status == 404 and problem.status == 404, problem
