// SHA-256, of FIPS 180-4: for short texts that must not be compared byte by byte.
#ifndef MOE_RUNTIME_SERVER_API_SHA256_H
#define MOE_RUNTIME_SERVER_API_SHA256_H

#include <array>
#include <cstdint>
#include <string_view>

namespace moe::server::api {

using Sha256 = std::array<uint8_t, 32>;
Sha256 sha256(std::string_view text);

} // namespace moe::server::api

#endif
