// Runs a SavedModel through the loader that TF Serving uses, on a batch of images.
//
//   load_saved_model MODEL_DIR SIGNATURE IMAGES N,H,W,C
//   load_saved_model MODEL_DIR SIGNATURE IMAGES N
//
// IMAGES holds N * H * W * C plain bytes, or N encoded images, each after its length as eight bytes. The
// signature must have one input, which is uint8 or string. Every output is one line, "name dtype shape value
// value ...", its shape as 2,8,3 and strings in hexadecimal digits after an x. Exit codes: 2 wrong arguments, 3
// images that cannot be read, 4 a model that cannot be loaded, 5 no such signature, 6 a run that fails, 7 an
// output of an unexpected dtype.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"

namespace tf = tensorflow;

static int Fail(int code, const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  return code;
}

template <typename T>
static void PrintValues(const tf::Tensor& tensor) {
  // Nine significant digits tell every two float32 apart.
  for (int64_t i = 0; i < tensor.NumElements(); ++i) std::printf(" %.9g", double(tensor.flat<T>()(i)));
}

static void PrintStrings(const tf::Tensor& tensor) {
  for (int64_t i = 0; i < tensor.NumElements(); ++i) {
    const tf::tstring& value = tensor.flat<tf::tstring>()(i);
    std::printf(" x");
    for (size_t j = 0; j < value.size(); ++j) std::printf("%02x", uint8_t(value[j]));
  }
}

// Splits encoded images; returns false if their number is not that of the tensor.
static bool ReadStrings(const std::vector<char>& bytes, tf::Tensor* images) {
  size_t position = 0;
  for (int64_t i = 0; i < images->NumElements(); ++i) {
    uint64_t length;
    if (bytes.size() - position < sizeof length) return false;
    std::memcpy(&length, bytes.data() + position, sizeof length);
    position += sizeof length;
    if (bytes.size() - position < length) return false;
    images->flat<tf::tstring>()(i) = tf::tstring(bytes.data() + position, length);
    position += length;
  }
  return position == bytes.size();
}

int main(int argc, char** argv) {
  if (argc != 5) return Fail(2, "usage: load_saved_model MODEL_DIR SIGNATURE IMAGES N,H,W,C");

  long long n, h, w, c;
  char rest;
  const int sides = std::sscanf(argv[4], "%lld,%lld,%lld,%lld%c", &n, &h, &w, &c, &rest);
  const bool encoded = sides == 1 && std::strchr(argv[4], ',') == nullptr;
  if (encoded) h = w = c = 0;
  if ((sides != 4 && !encoded) || n < 0 || h < 0 || w < 0 || c < 0) {
    return Fail(2, std::string("neither N,H,W,C nor N: ") + argv[4]);
  }
  const tf::TensorShape shape = encoded ? tf::TensorShape({n}) : tf::TensorShape({n, h, w, c});

  std::ifstream file(argv[3], std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  tf::Tensor images(encoded ? tf::DT_STRING : tf::DT_UINT8, shape);
  const bool fits = encoded ? ReadStrings(bytes, &images) : int64_t(bytes.size()) == shape.num_elements();
  if (!file || !fits) return Fail(3, std::string(argv[3]) + " does not hold images of shape " + argv[4]);
  if (!encoded && !bytes.empty()) std::memcpy(images.flat<uint8_t>().data(), bytes.data(), bytes.size());

  tf::SavedModelBundle model;
  auto status = tf::LoadSavedModel(tf::SessionOptions(), tf::RunOptions(), argv[1], {"serve"}, &model);
  if (!status.ok()) return Fail(4, status.ToString());

  const auto found = model.GetSignatures().find(argv[2]);
  if (found == model.GetSignatures().end() || found->second.inputs().size() != 1) {
    return Fail(5, std::string("no signature of one input is called ") + argv[2]);
  }
  std::vector<std::string> names, tensors;
  for (const auto& output : found->second.outputs()) {
    names.push_back(output.first);
    tensors.push_back(output.second.name());
  }
  std::vector<tf::Tensor> outputs;
  const std::string input = found->second.inputs().begin()->second.name();
  status = model.session->Run({{input, images}}, tensors, {}, &outputs);
  if (!status.ok()) return Fail(6, status.ToString());

  for (size_t i = 0; i < outputs.size(); ++i) {
    std::printf("%s %s ", names[i].c_str(), tf::DataTypeString(outputs[i].dtype()).c_str());
    for (int d = 0; d < outputs[i].dims(); ++d) {
      std::printf(d ? ",%lld" : "%lld", static_cast<long long>(outputs[i].dim_size(d)));
    }
    switch (outputs[i].dtype()) {
      case tf::DT_FLOAT: PrintValues<float>(outputs[i]); break;
      case tf::DT_INT32: PrintValues<int32_t>(outputs[i]); break;
      case tf::DT_BOOL: PrintValues<bool>(outputs[i]); break;
      case tf::DT_STRING: PrintStrings(outputs[i]); break;
      default: return Fail(7, names[i] + " is of an unexpected dtype");
    }
    std::printf("\n");
  }
  return 0;
}
