// In place of Tls.cpp where there is no OpenSSL.
#include "runtime/server/http/Transport.h"

namespace moe::server::http {

Result<std::shared_ptr<Tls>> Tls::create(const std::string &certificate, const std::string &) {
  return Error{Code::Unavailable,
               "cannot use the certificate " + certificate +
                   ": this build has no TLS. Build with OpenSSL (-DMOE_SERVER_TLS=ON), "
                   "or leave TLS to a proxy"};
}

} // namespace moe::server::http
