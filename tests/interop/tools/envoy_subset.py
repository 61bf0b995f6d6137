"""Compares the subset of Envoy's API in proto/ with the complete files, which the package xds-protos has.

Reads an encoded FileDescriptorSet of the subset from stdin. Each file, message, field, enum value and method of it has to be
the same in the complete files. Prints each difference, and the numbers of what it compared.
"""

import collections
import importlib
import sys

from google.protobuf import descriptor_pb2

# Attributes of a field that programs with other stubs depend on.
FIELD_ATTRIBUTES = ("name", "type", "label", "type_name", "json_name", "proto3_optional")
compared = collections.Counter()
differences = []


def differ(name, attribute, subset, complete):
    if subset != complete:
        differences.append(f"{name}: {attribute} is {subset!r} here and {complete!r} in Envoy's files")


def find(kind, name, key, complete):
    """Returns the entry of the complete list with this key, or None with a difference."""
    compared[kind] += 1
    if key not in complete:
        differences.append(f"{name}: Envoy's files have no such {kind}")
    return complete.get(key)


def by_name(entries):
    return {entry.name: entry for entry in entries}


def compare_field(name, subset, subset_message, complete, complete_message):
    for attribute in FIELD_ATTRIBUTES:
        differ(name, attribute, getattr(subset, attribute), getattr(complete, attribute))

    def oneof(field, message):
        return message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None

    differ(name, "oneof", oneof(subset, subset_message), oneof(complete, complete_message))


def compare_message(name, subset, complete):
    differ(name, "map entry", subset.options.map_entry, complete.options.map_entry)
    fields = {field.number: field for field in complete.field}
    for field in subset.field:
        field_name = f"{name}.{field.name}"
        other = find("field", field_name, field.number, fields)
        if other is not None:
            compare_field(field_name, field, subset, other, complete)
    compare_types(name, subset.nested_type, complete.nested_type, subset.enum_type, complete.enum_type)


def compare_enum(name, subset, complete):
    values = by_name(complete.value)
    for value in subset.value:
        other = find("enum value", f"{name}.{value.name}", value.name, values)
        if other is not None:
            differ(f"{name}.{value.name}", "number", value.number, other.number)


def compare_types(scope, messages, all_messages, enums, all_enums):
    for message in messages:
        name = f"{scope}.{message.name}"
        other = find("message", name, message.name, by_name(all_messages))
        if other is not None:
            compare_message(name, message, other)
    for enum in enums:
        name = f"{scope}.{enum.name}"
        other = find("enum", name, enum.name, by_name(all_enums))
        if other is not None:
            compare_enum(name, enum, other)


def compare_service(name, subset, complete):
    methods = by_name(complete.method)
    for method in subset.method:
        method_name = f"{name}.{method.name}"
        other = find("method", method_name, method.name, methods)
        if other is not None:
            for attribute in ("input_type", "output_type", "client_streaming", "server_streaming"):
                differ(method_name, attribute, getattr(method, attribute), getattr(other, attribute))


def compare_file(subset):
    compared["file"] += 1
    try:
        module = importlib.import_module(subset.name.removesuffix(".proto").replace("/", ".") + "_pb2")
    except ImportError as error:
        differences.append(f"{subset.name}: Envoy's files have no such file ({error})")
        return
    complete = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(complete)
    # A field of a file that protoc has read has a name in JSON; one of a generated module may have none.
    set_json_names(complete.message_type)
    differ(subset.name, "package", subset.package, complete.package)
    compare_types(subset.package, subset.message_type, complete.message_type, subset.enum_type, complete.enum_type)
    for service in subset.service:
        name = f"{subset.package}.{service.name}"
        other = find("service", name, service.name, by_name(complete.service))
        if other is not None:
            compare_service(name, service, other)


def set_json_names(messages):
    for message in messages:
        for field in message.field:
            if not field.json_name:
                first, *rest = field.name.split("_")
                field.json_name = first + "".join(part.capitalize() for part in rest)
        set_json_names(message.nested_type)


files = descriptor_pb2.FileDescriptorSet.FromString(sys.stdin.buffer.read())
for file in files.file:
    compare_file(file)
for difference in differences:
    print(difference, file=sys.stderr)
print(", ".join(f"{count} {kind}s" for kind, count in compared.items()))
sys.exit(1 if differences or not compared["field"] else 0)
