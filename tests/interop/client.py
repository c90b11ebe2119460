"""What a Python user writes with the client that openapi-python-client generates: python client.py URL"""

import importlib
import pkgutil
import sys

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
status, problem = call("get_topic", topic="none")
assert status == 404 and problem.status == 404, problem
