"""Protobuf to and from our own values, errors to and from statuses. The generated code is in gen/."""
