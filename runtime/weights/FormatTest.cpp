// The table of element types: conversions against exact arithmetic, and names there and back.
#include "runtime/weights/Format.h"
#include "runtime/Status.h"
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

using namespace moe;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr Storage kFloats[] = {Storage::BF16, Storage::F16, Storage::F8E4M3};

// What the bits of a float type mean, by its definition.
double meaning(Storage type, uint32_t bits) {
  const int mantissaBits = type == Storage::BF16 ? 7 : type == Storage::F16 ? 10 : 3;
  const int width = int(bitsOf(type)), exponentBits = width - 1 - mantissaBits;
  const int bias = (1 << (exponentBits - 1)) - 1, most = (1 << exponentBits) - 1;
  const int exponent = int(bits >> mantissaBits) & most;
  const int mantissa = int(bits) & ((1 << mantissaBits) - 1);
  const double sign = bits >> (width - 1) ? -1 : 1;
  if (type == Storage::F8E4M3 ? (bits & 0x7f) == 0x7f : exponent == most && mantissa)
    return std::numeric_limits<double>::quiet_NaN();
  if (type != Storage::F8E4M3 && exponent == most)
    return sign * std::numeric_limits<double>::infinity();
  return sign * std::ldexp(exponent ? mantissa + (1 << mantissaBits) : mantissa,
                           std::max(exponent, 1) - bias - mantissaBits);
}

TEST(Format, FloatsMeanWhatTheirDefinitionSays) {
  for (Storage type : kFloats)
    for (uint32_t bits = 0; bits < uint32_t(1) << bitsOf(type); ++bits) {
      const double expected = meaning(type, bits);
      const float value = infoOf(type).decode(bits, 0);
      if (std::isnan(expected)) {
        EXPECT_TRUE(std::isnan(value)) << nameOf(type) << " " << bits;
        continue;
      }
      ASSERT_EQ(double(value), expected) << nameOf(type) << " " << bits;
      ASSERT_EQ(std::signbit(value), std::signbit(expected)) << nameOf(type) << " " << bits;
      ASSERT_EQ(infoOf(type).encode(value, 0), bits) << nameOf(type);
    }
}

TEST(Format, RoundsToTheNearestTiesToEven) {
  for (Storage type : kFloats) {
    const uint32_t most = type == Storage::BF16 ? 0x7f7f : type == Storage::F16 ? 0x7bff : 0x7e;
    const uint32_t sign = uint32_t(1) << (bitsOf(type) - 1);
    const auto encode = infoOf(type).encode;
    for (uint32_t bits = 0; bits < most; ++bits) {
      const float low = infoOf(type).decode(bits, 0), high = infoOf(type).decode(bits + 1, 0);
      const float middle = low + (high - low) / 2;
      if (double(middle) != (double(low) + double(high)) / 2) // bf16's smallest have none
        continue;
      ASSERT_EQ(encode(middle, 0), bits + bits % 2) << nameOf(type);
      ASSERT_EQ(encode(-middle, 0), sign | (bits + bits % 2)) << nameOf(type);
      ASSERT_EQ(encode(std::nextafter(middle, 0.0f), 0), bits) << nameOf(type);
      ASSERT_EQ(encode(std::nextafter(middle, kInfinity), 0), bits + 1) << nameOf(type);
    }
  }
}

TEST(Format, TooLargeNumbers) {
  EXPECT_EQ(bf16Of(3.4e38f), 0x7f80);
  EXPECT_EQ(bf16Of(-kInfinity), 0xff80);
  EXPECT_EQ(f16Of(65519.996f), 0x7bff);
  EXPECT_EQ(f16Of(65520), 0x7c00);
  EXPECT_EQ(f16Of(-kInfinity), 0xfc00);
  EXPECT_EQ(f8Of(449), 0x7e);
  EXPECT_EQ(f8Of(-kInfinity), 0xfe);
  for (float nan : {std::nanf(""), -std::nanf("1"), std::bit_cast<float>(0x7f800001)}) {
    EXPECT_TRUE(std::isnan(floatOfBf16(bf16Of(nan))));
    EXPECT_TRUE(std::isnan(floatOfF16(f16Of(nan))));
  }
}

TEST(Format, IntegersAreInOffsetBinary) {
  const StorageInfo &four = infoOf(Storage::I4), &eight = infoOf(Storage::I8);
  EXPECT_EQ(four.encode(-8, four.zero), 0u);
  EXPECT_EQ(four.encode(7.4f, four.zero), 15u);
  EXPECT_EQ(four.encode(100, four.zero), 15u);
  EXPECT_EQ(four.encode(-100, four.zero), 0u);
  EXPECT_EQ(four.encode(0.5f, 7), 7u); // the value is rounded, then its zero is added
  EXPECT_EQ(four.encode(1.5f, 7), 9u);
  EXPECT_EQ(four.encode(0, four.mostZero), 15u);
  EXPECT_EQ(eight.encode(-127, eight.zero), 1u);
  EXPECT_EQ(eight.encode(kInfinity, eight.zero), 255u);
  EXPECT_EQ(four.decode(3, 16), -13);
  EXPECT_EQ(eight.decode(0, eight.zero), -128);
  for (const StorageInfo *info : {&four, &eight})
    for (uint32_t code = 0; code < uint32_t(1) << info->bits; ++code)
      EXPECT_EQ(info->encode(info->decode(code, info->zero), info->zero), code);
}

TEST(Format, ElementsOfAnyAlignment) {
  std::mt19937 random(1);
  for (Storage type : {Storage::F32, Storage::BF16, Storage::F16}) {
    const size_t bytes = size_t(bytesOf(type)), count = 37;
    std::vector<std::byte> stored(count * bytes + 1);
    std::vector<float> values(count), read(count);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t bits = infoOf(type).encode(float(int(random() % 2001) - 1000) / 8, 0);
      values[i] = infoOf(type).decode(bits, 0);
      std::memcpy(stored.data() + 1 + i * bytes, &bits, bytes);
    }
    toFloat(type, stored.data() + 1, count, read.data());
    EXPECT_EQ(read, values);
  }
}

TEST(Format, NamesRoundTrip) {
  for (Storage storage : kStorages)
    EXPECT_EQ(storageNamed(nameOf(storage)), storage);
  EXPECT_FALSE(storageNamed("int5"));
  EXPECT_FALSE(storageNamed(""));
  int formats = 0;
  for (Storage element : kStorages)
    for (Storage scale : kStorages)
      for (int64_t group : {int64_t(1), int64_t(32), int64_t(16384), INT64_MAX})
        for (bool zeros : {false, true}) {
          const StorageInfo &info = infoOf(element);
          const WeightFormat format =
              info.codes ? WeightFormat{element, group, scale, zeros} : WeightFormat{element};
          Result<WeightFormat> found = weightFormatNamed(nameOf(format));
          const bool exists =
              info.weights && (!info.codes || (!infoOf(scale).codes && (!zeros || info.mostZero)));
          ASSERT_EQ(bool(found), exists) << nameOf(format);
          if (found) {
            EXPECT_EQ(*found, format);
            ++formats;
          }
        }
  EXPECT_GT(formats, 40);
}

TEST(Format, OtherNamesAreRefused) {
  for (const char *name : {"",
                           "-",
                           "f16",
                           "int4",
                           "int4-",
                           "int4-g",
                           "int4-g0-f16",
                           "int4-g-1-f16",
                           "int4-g+1-f16",
                           "int4-g032-f16",
                           "int4-g32",
                           "int4-g32-",
                           "int4-g32-int8",
                           "int4-g32-f16-",
                           "int4-g32-f16-zz",
                           "int4-g32-f16-z-",
                           "int8-g32-f16-z",
                           "fp8-g32-f32-z",
                           "bf16-",
                           "bf16-g32-f16",
                           "bf16-z",
                           "int4-32-f16",
                           "int4-g99999999999999999999-f16",
                           "int4-g32x-f16",
                           "INT4-g32-f16"}) {
    Result<WeightFormat> format = weightFormatNamed(name);
    ASSERT_FALSE(format) << name;
    EXPECT_EQ(format.error().code, Code::InvalidArgument);
    EXPECT_EQ(format.error().message,
              "'" + std::string(name) +
                  "' is no format of weights, expected one of f32, bf16, fp8-gN-f16, int8-gN-f16, "
                  "int4-gN-f16, with bf16 or f32 for f16 where the scales are so");
  }
}

} // namespace
