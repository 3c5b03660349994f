"""The wire as it is, under the official clients: requests by http.client, streams taken apart line by line, and every object checked against the clients' own types,
strictly: no field that they do not know, none missing, none of another type."""
import functools
import http.client
import json
import urllib.parse
from collections import namedtuple

from pydantic import BaseModel, TypeAdapter

Answer = namedtuple("Answer", "status headers body")
Event = namedtuple("Event", "name data")


def request(url, path, body=None, method="POST", headers={}, timeout=120):
    """One request; body is JSON, or bytes as they are."""
    where = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=timeout)
    try:
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def ask(url, path, body, status=200, **more):
    """The JSON of an answer that has this status."""
    answer = request(url, path, body, **more)
    assert answer.status == status, answer.body
    return json.loads(answer.body)


def events(url, path, body):
    """The events of a stream, comments left out."""
    answer = request(url, path, {**body, "stream": True})
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    text = answer.body.decode()
    assert text.endswith("\n\n")
    found = []
    for block in text.split("\n\n")[:-1]:
        name, data = None, []
        for line in block.split("\n"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
            else:
                assert field == "", line  # a comment
        if data:
            found.append(Event(name, "\n".join(data)))
    return found


def known(model, where=""):
    """Every field is one that the client's type has."""
    if isinstance(model, BaseModel):
        assert not model.model_extra, f"{where or type(model).__name__}: {sorted(model.model_extra)}"
        for name in type(model).model_fields:
            known(getattr(model, name), f"{where or type(model).__name__}.{name}")
    elif isinstance(model, list):
        for i, each in enumerate(model):
            known(each, f"{where}[{i}]")
    return model


adapter = functools.cache(TypeAdapter)  # each takes long to make


def typed(kind, data):
    """data (a text of JSON, or its value) as an object of the client's type."""
    value = json.loads(data) if isinstance(data, (str, bytes)) else data
    return known(adapter(kind).validate_python(value, strict=True))
