// Runs a module on a tensor, without Python.
//
//     artefact MODULE INPUT.pt OUTPUT.pt
//
// MODULE is a scripted one (.pt), or an exported program that was compiled ahead of time (.pt2). The tensors are files
// that torch.save writes and torch.load reads.

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

torch::Tensor run(const std::string& module, const torch::Tensor& input) {
  if (module.ends_with(".pt2")) {
    return torch::inductor::AOTIModelPackageLoader(module).run({input}).at(0);
  }
  return torch::jit::load(module).forward({input}).toTensor();
}

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: artefact MODULE INPUT.pt OUTPUT.pt\n";
    return 2;
  }
  c10::InferenceMode without_gradients;

  std::ifstream file(argv[2], std::ios::binary);
  std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
  torch::Tensor features = run(argv[1], torch::jit::pickle_load(bytes).toTensor());

  bytes = torch::jit::pickle_save(features);
  std::ofstream(argv[3], std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  std::cout << features.sizes() << "\n";
}
