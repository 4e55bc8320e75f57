#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "exchange/workload.h"
#include "waybill/group.h"
#include "waybill/tensor_view.h"

namespace waybill::bench {

/// One way to call the library.
struct Variant {
  std::string name;
  int group = 0;  ///< those with the same options share one
  GroupOptions options;
  bool in_pool = true;  ///< the experts leave their rows where dispatch put them
  int quant = 0;
  bool smooth = false;
  int comm_quant = 0;
  bool norm = false;
  bool pair = false;  ///< setup and teardown
  bool mask = false;  ///< (BS, K), all true
  bool elastic = false;
  int alpha_dims = 0;  ///< the last choice of each token is a constant expert with such alphas
};

/// Throws std::runtime_error for a name that is none.
Variant variant_of(const std::string& name, const Case& sizes);

/// What a sum has to be.
struct Expected {
  std::vector<std::byte> sum;
  std::vector<std::byte> normalised;
};

/// The arguments of a variant on one rank.
class Inputs {
 public:
  Inputs(const Workload& workload, const Variant& variant);

  TensorView x() const;
  TensorView ids() const;
  TensorView weights() const;
  std::optional<TensorView> mask() const;
  std::optional<TensorView> elastic() const;
  TensorView smooth() const;
  TensorView residual() const { return x(); }
  TensorView gamma() const;
  TensorView alpha_1() const;
  TensorView alpha_2() const { return alpha_1(); }
  TensorView constant() const;

  /// As dispatch brings it.
  std::vector<std::byte> expected_row(const Pair& pair) const;
  /// For a token of this rank, with experts that give back what they got.
  Expected expected_sum(std::int64_t token) const;

 private:
  std::vector<std::byte> returned_row(std::int64_t token) const;

  const Workload& workload_;
  const Case& sizes_;
  const Variant variant_;
  std::vector<std::int32_t> ids_;
  std::vector<std::int32_t> elastic_;
  std::vector<std::uint8_t> mask_;
  std::vector<float> smooth_;
  std::vector<std::byte> gamma_;
  std::vector<std::byte> alpha_;
};

}  // namespace waybill::bench
