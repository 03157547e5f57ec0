"""The versioned skeleton stream: writing, reading, validation, conversion, and arrays for action recognition."""

from sharpose_rt.geometry.angles import angle_names, joint_angles
from sharpose_rt.skeletons.action import ActionArray, action_array
from sharpose_rt.skeletons.evenly import at_fps
from sharpose_rt.skeletons.names import OutputPaths, output_paths
from sharpose_rt.skeletons.plain import plain
from sharpose_rt.skeletons.records import SCHEMA, FrameRecord, Header, encode, end_record, people_of, poses_of
from sharpose_rt.skeletons.rewrite import rewrite_stream
from sharpose_rt.skeletons.stream import StreamReader, StreamWriter
from sharpose_rt.skeletons.summary import versions, write_summary
from sharpose_rt.skeletons.validation import Problem, format_problems, validate
from sharpose_rt.skeletons.window import Window, windows

__all__ = [
    "SCHEMA",
    "ActionArray",
    "FrameRecord",
    "Header",
    "OutputPaths",
    "Problem",
    "StreamReader",
    "StreamWriter",
    "Window",
    "action_array",
    "angle_names",
    "at_fps",
    "encode",
    "end_record",
    "format_problems",
    "joint_angles",
    "output_paths",
    "people_of",
    "plain",
    "poses_of",
    "rewrite_stream",
    "validate",
    "versions",
    "windows",
    "write_summary",
]
