"""TensorBoard's event file, written by TensorBoard's own record writer.

Synchronously: its `EventFileWriter` writes in a thread, where a full disk ends in a traceback instead of an error here.
Every record is a scalar, a text, a picture or a row of HPARAMS in the run folder itself, so a run is one line in
TensorBoard.
"""

# protobuf's generated modules carry no types
# mypy: disable-error-code="attr-defined,no-untyped-call"

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from dqn_cli.errors import writing


class EventFile:
    """One event file, new at `path`. Every method raises `StorageError` where the disk refuses.

    It begins at the step `begin`: a TensorBoard that is open forgets what it has read of this step and later ones.
    """

    def __init__(self, path: Path, begin: int):
        self.path = path
        with writing(path):
            self._file = path.open("xb")
        self._records = RecordWriter(self._file)
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
        self._write(summary=hparams_pb(dict(values)))

    def sync(self) -> int:
        """Let all events reach the disk; the file's length in bytes."""
        with writing(self.path):
            os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        with writing(self.path):
            self._records.close()

    def _write(self, **event: Any) -> None:
        with writing(self.path):
            self._records.write(Event(wall_time=time.time(), **event).SerializeToString())
            self._records.flush()
