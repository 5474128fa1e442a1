"""TensorBoard's event file: records of its protobufs, https://www.tensorflow.org/tutorials/load_data/tfrecord.

Written here and synchronously: TensorBoard's `EventFileWriter` writes in a thread, where a full disk ends in a
traceback instead of an error here, and importing its record writer takes six times as long as importing the protobufs.
Every record is a scalar, a text, a picture or a row of HPARAMS in the run folder itself, so a run is one line in
TensorBoard.
"""

# protobuf's generated modules carry no types
# mypy: disable-error-code="attr-defined,no-untyped-call"

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

from dqn_cli.errors import writing
from dqn_cli.training.metrics import write_whole

SESSION_START = "_hparams_/session_start_info"  # the tag by which TensorBoard knows a row of HPARAMS


class EventFile:
    """One event file, new at `path`. Every method raises `StorageError` where the disk refuses.

    It begins at the step `begin`: a TensorBoard that is open forgets what it has read of this step and later ones.
    """

    def __init__(self, path: Path, begin: int):
        self.path = path
        with writing(path):
            self._file = path.open("xb", buffering=0)
        self._write(file_version="brain.Event:2")
        self._write(step=begin, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, steps: int, values: Mapping[str, float]) -> None:
        """Scalars by tag."""
        entries = [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()]
        self._write(step=steps, summary=Summary(value=entries))

    def text(self, tag: str, markdown: str) -> None:
        """A text card."""
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()], tensor_shape=shape)
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        self._write(summary=Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)]))

    def image(self, tag: str, steps: int, png: bytes, size: tuple[int, int]) -> None:
        """A picture of `size` (height, width), three colors."""
        image = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=png)
        self._write(step=steps, summary=Summary(value=[Summary.Value(tag=tag, image=image)]))

    def hparams(self, values: Mapping[str, bool | float | str]) -> None:
        """This run's row of HPARAMS; its metrics are the run's scalars."""
        info = SessionStartInfo(group_name=_group_of(values), start_time_secs=time.time())
        for name, value in values.items():
            kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
            setattr(info.hparams[name], f"{kind}_value", value)
        content = HParamsPluginData(session_start_info=info).SerializeToString()
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="hparams", content=content))
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=0)])
        nothing = TensorProto(dtype=DT_FLOAT, tensor_shape=shape)
        self._write(summary=Summary(value=[Summary.Value(tag=SESSION_START, metadata=metadata, tensor=nothing)]))

    def sync(self) -> int:
        """Let all events reach the disk; the file's length in bytes."""
        with writing(self.path):
            os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        with writing(self.path):
            self._file.close()

    def _write(self, **event: Any) -> None:
        write_whole(self._file, self.path, framed(Event(wall_time=time.time(), **event).SerializeToString()))


def framed(data: bytes) -> bytes:
    """`data` as a record: its length, and a checksum of each."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(crc32c(length))) + data + struct.pack("<I", _masked(crc32c(data)))


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _entry(crc: int) -> int:
    """What a byte makes of the checksum, bit by bit."""
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


_TABLE = [_entry(byte) for byte in range(256)]


def _masked(crc: int) -> int:
    """As records have it, which may hold checksums themselves."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _group_of(values: Mapping[str, bool | float | str]) -> str:
    """Equal settings make one group of runs."""
    return sha256(json.dumps(dict(values), sort_keys=True, separators=(",", ":")).encode()).hexdigest()
