#include "waybill/tensor_view.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "waybill/dtype.h"
#include "waybill/version.h"

namespace waybill {
namespace {

TEST(Dims, HoldUpToThreeSizes) {
  EXPECT_EQ(Dims{}.rank(), 0);
  EXPECT_EQ(Dims{}.product(), 1);
  EXPECT_EQ((Dims{2, 3, 4}).rank(), 3);
  EXPECT_EQ((Dims{2, 3, 4}).product(), 24);
  EXPECT_EQ((Dims{5, 0}).product(), 0);
  EXPECT_EQ((Dims{1, 2, 3, 4}).rank(), kMaxDims);
  EXPECT_EQ((Dims{7, 9})[1], 9);
}

TEST(Dims, AreEqualWhenRankAndSizesAre) {
  EXPECT_EQ((Dims{2, 3}), (Dims{2, 3}));
  EXPECT_FALSE((Dims{2, 3}) == (Dims{3, 2}));
  EXPECT_FALSE((Dims{2}) == (Dims{2, 0}));
}

TEST(TensorView, ContiguousIsRowMajor) {
  EXPECT_EQ(TensorView::contiguous(nullptr, DType::kInt8, {5}).strides, (Dims{1}));
  EXPECT_EQ(TensorView::contiguous(nullptr, DType::kInt8, {5, 7}).strides, (Dims{7, 1}));
  const TensorView view = TensorView::contiguous(nullptr, DType::kInt8, {5, 7, 2});
  EXPECT_EQ(view.strides, (Dims{14, 2, 1}));
  EXPECT_EQ(view.total_dims, 3);
  EXPECT_TRUE(view.is_contiguous());
}

TEST(TensorView, GapsAndTransposesAreNotContiguous) {
  TensorView view = TensorView::contiguous(nullptr, DType::kFloat32, {5, 7});
  view.strides = {8, 1};
  EXPECT_FALSE(view.is_contiguous());
  view.strides = {1, 5};
  EXPECT_FALSE(view.is_contiguous());
  view.strides = {0, 1};
  EXPECT_FALSE(view.is_contiguous());
}

TEST(TensorView, TheStrideOfASingleElementDoesNotMatter) {
  TensorView view = TensorView::contiguous(nullptr, DType::kFloat32, {1, 7});
  view.strides = {99, 1};
  EXPECT_TRUE(view.is_contiguous());
  view = TensorView::contiguous(nullptr, DType::kFloat32, {7, 1});
  view.strides = {1, 99};
  EXPECT_TRUE(view.is_contiguous());
}

TEST(DTypes, HaveTheSizesAndNamesOfTorch) {
  struct Case {
    DType dtype;
    std::int64_t bytes;
    const char* name;
    bool row;
  };
  for (const Case& c : {Case{DType::kBFloat16, 2, "bfloat16", true},
                        Case{DType::kFloat16, 2, "float16", true},
                        Case{DType::kFloat32, 4, "float32", true},
                        Case{DType::kInt8, 1, "int8", false},
                        Case{DType::kInt32, 4, "int32", false},
                        Case{DType::kInt64, 8, "int64", false},
                        Case{DType::kBool, 1, "bool", false},
                        Case{DType::kFloat64, 8, "float64", false},
                        Case{DType::kInt16, 2, "int16", false},
                        Case{DType::kUInt8, 1, "uint8", false},
                        Case{DType::kFloat8E4M3Fn, 1, "float8_e4m3fn", false},
                        Case{DType::kFloat8E5M2, 1, "float8_e5m2", false},
                        Case{DType::kComplex64, 8, "complex64", false},
                        Case{DType::kOther, 0, "another dtype", false}}) {
    EXPECT_EQ(size_of(c.dtype), c.bytes) << c.name;
    EXPECT_STREQ(name_of(c.dtype), c.name);
    EXPECT_EQ(is_row_dtype(c.dtype), c.row) << c.name;
  }
}

TEST(Version, TheTextIsTheNumbers) {
  EXPECT_EQ(std::string_view(version_string()),
            std::to_string(kVersionMajor) + "." + std::to_string(kVersionMinor) + "." +
                std::to_string(kVersionPatch));
}

}  // namespace
}  // namespace waybill
