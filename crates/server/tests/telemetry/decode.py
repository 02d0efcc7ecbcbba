"""Reads exports of OTLP with the official protobufs, one a line as `path base64`, and prints each as JSON."""

import base64
import sys

from google.protobuf.json_format import MessageToJson
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


def unknown_fields(message):
    """Whether any part of a message has a field that the protobufs do not know."""
    again = type(message).FromString(message.SerializeToString())
    size = again.ByteSize()
    again.DiscardUnknownFields()
    return again.ByteSize() != size


for line in sys.stdin:
    path, body = line.split()
    message = KINDS[path].FromString(base64.b64decode(body))
    if unknown_fields(message):
        sys.exit(f"an export to {path} has fields that are not known")
    print(MessageToJson(message, indent=None))
