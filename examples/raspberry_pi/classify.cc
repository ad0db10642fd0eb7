// Runs a .tflite file of bnnkeras in Larq Compute Engine, by the names of its signature.
//
//   classify model.tflite input.bin [threads]
//
// input.bin holds the float32 values of one sample, rows first, channels last, as NumPy's
// `array.tofile("input.bin")` writes them, prepared as for training. Prints one line for each
// output: its name, and the position and value of its largest entry.

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>

#include "larq_compute_engine/tflite/kernels/lce_ops_register.h"
#include "tensorflow/lite/interpreter.h"
#include "tensorflow/lite/kernels/register.h"
#include "tensorflow/lite/model.h"
#include "tensorflow/lite/signature_runner.h"

namespace {

[[noreturn]] void Fail(const char* message) {
  std::fprintf(stderr, "%s\n", message);
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) Fail("usage: classify model.tflite input.bin [threads]");

  // Unlike BuildFromFile, this refuses truncated files, which would crash the interpreter.
  const auto model = tflite::FlatBufferModel::VerifyAndBuildFromFile(argv[1]);
  if (model == nullptr) Fail("The model is missing or damaged");

  tflite::ops::builtin::BuiltinOpResolver resolver;
  compute_engine::tflite::RegisterLCECustomOps(&resolver);
  std::unique_ptr<tflite::Interpreter> interpreter;
  if (tflite::InterpreterBuilder(*model, resolver)(&interpreter) != kTfLiteOk) {
    Fail("The interpreter cannot be built");
  }
  interpreter->SetNumThreads(argc == 4 ? std::atoi(argv[3]) : 1);

  // By name: positions in the file need not be those of the Keras model.
  tflite::SignatureRunner* runner = interpreter->GetSignatureRunner("serving_default");
  if (runner == nullptr || runner->input_size() != 1) Fail("The model needs one signed input");
  if (runner->AllocateTensors() != kTfLiteOk) Fail("The tensors cannot be allocated");
  TfLiteTensor* input = runner->input_tensor(runner->input_names()[0]);
  if (input->type != kTfLiteFloat32) Fail("The input is not float32");

  std::ifstream file(argv[2], std::ios::binary);
  file.read(input->data.raw, static_cast<std::streamsize>(input->bytes));
  if (!file || file.peek() != std::ifstream::traits_type::eof()) {
    Fail("The input file has another size than the model's input");
  }
  if (runner->Invoke() != kTfLiteOk) Fail("The model cannot be run");

  for (const char* name : runner->output_names()) {
    const TfLiteTensor* output = runner->output_tensor(name);
    if (output->type != kTfLiteFloat32) continue;
    const std::size_t size = output->bytes / sizeof(float);
    std::size_t largest = 0;
    for (std::size_t index = 1; index < size; ++index) {
      if (output->data.f[index] > output->data.f[largest]) largest = index;
    }
    std::printf("%s: %zu (%g)\n", name, largest, output->data.f[largest]);
  }
  return 0;
}
