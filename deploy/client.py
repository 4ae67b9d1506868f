"""Score image files by a running server over gRPC: python deploy/client.py localhost:8500 a.png b.jpg

It needs tensorflow-serving-api (the extra `serving`).
"""

import pathlib
import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

address, *names = sys.argv[1:]
request = predict_pb2.PredictRequest()
request.model_spec.name = "mcl"
request.model_spec.signature_name = "serving_bytes"
contents = [pathlib.Path(name).read_bytes() for name in names]
request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(contents, tf.string, shape=[len(contents)]))
with grpc.insecure_channel(address) as channel:
    service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    try:
        answer = service.Predict(request, timeout=5.0)  # seconds; a call without a deadline may never return
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
found = {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}
for name, score, anomalous, share in zip(names, found["score"], found["is_anomaly"], found["p_value"], strict=True):
    print(f"{name}: score {score:.4f}, {'anomaly' if anomalous else 'normal'}, p {share:.3f}")
