"""Reads what was written for TensorBoard, and attaches callbacks to a model that is none."""

import types

import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def attached(callback, step=7, learning_rate=0.1, **params):
    """Return the callback with a model at a step and with the parameters of a training loop."""
    optimizer = types.SimpleNamespace(iterations=step, learning_rate=learning_rate)
    callback.set_model(types.SimpleNamespace(optimizer=optimizer))
    callback.set_params({"epochs": 9, "steps": 5, **params})
    return callback


def read_summaries(folder, plugin):
    """Return {tag: [(step, array)]} of the events in a folder that belong to a plugin of TensorBoard."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [(event.step, tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if events.SummaryMetadata(tag).plugin_data.plugin_name == plugin
    }


def read_curves(folder):
    """Return {curve: [(step, value)]} of the events in a folder."""
    curves = read_summaries(folder, "scalars")
    return {tag: [(step, float(np.squeeze(value))) for step, value in points] for tag, points in curves.items()}
