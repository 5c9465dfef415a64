// TLS of OpenSSL over sockets that never wait.
#include "runtime/server/http/Transport.h"

#include <cerrno>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509err.h>
#include <sys/socket.h>

namespace moe::server::http {

namespace {
// OpenSSL's own socket BIO writes by write(), which ends the program by SIGPIPE when the peer is
// gone.
int descriptorOf(BIO *bio) { return int(reinterpret_cast<intptr_t>(BIO_get_data(bio))); }

int sendBytes(BIO *bio, const char *data, int size) {
  BIO_clear_retry_flags(bio);
  const ssize_t sent = ::send(descriptorOf(bio), data, size_t(size), MSG_NOSIGNAL);
  if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
    BIO_set_retry_write(bio);
  return int(sent);
}

int receiveBytes(BIO *bio, char *data, int size) {
  BIO_clear_retry_flags(bio);
  const ssize_t got = ::recv(descriptorOf(bio), data, size_t(size), 0);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
    BIO_set_retry_read(bio);
  return int(got);
}

long control(BIO *, int command, long, void *) { return command == BIO_CTRL_FLUSH; }

BIO_METHOD *socketMethod() {
  static BIO_METHOD *const method = [] {
    BIO_METHOD *made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "moe socket");
    if (made) {
      BIO_meth_set_write(made, sendBytes);
      BIO_meth_set_read(made, receiveBytes);
      BIO_meth_set_ctrl(made, control);
    }
    return made;
  }();
  return method;
}

class TlsTransport final : public Transport {
public:
  TlsTransport(SSL *ssl, int descriptor) : ssl(ssl, SSL_free), descriptor(descriptor) {}

  Transfer read(char *data, size_t size) override {
    ERR_clear_error();
    size_t bytes = 0;
    const int result = SSL_read_ex(ssl.get(), data, size, &bytes); // the handshake as well
    if (result == 1)
      return {Transfer::State::Done, bytes};
    return failure(result);
  }

  Transfer write(std::string_view data) override {
    ERR_clear_error();
    size_t bytes = 0;
    const int result = SSL_write_ex(ssl.get(), data.data(), data.size(), &bytes);
    if (result == 1)
      return {Transfer::State::Done, bytes};
    return failure(result);
  }

  void endWriting() override {
    ERR_clear_error();
    if (!failed)
      SSL_shutdown(ssl.get());
    ::shutdown(descriptor, SHUT_WR);
  }

private:
  Transfer failure(int result) {
    switch (SSL_get_error(ssl.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return {Transfer::State::NeedsRead};
    case SSL_ERROR_WANT_WRITE:
      return {Transfer::State::NeedsWrite};
    case SSL_ERROR_ZERO_RETURN:
      return {Transfer::State::Closed};
    default:
      failed = true;
      if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_HTTP_REQUEST)
        explain();
      return {Transfer::State::Failed};
    }
  }

  // A client that speaks HTTP in the clear is told so, as far as its socket takes it at once.
  void explain() {
    static constexpr std::string_view kAnswer =
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 33\r\n"
        "connection: close\r\n\r\nthis port speaks TLS: use https:\n";
    ::send(descriptor, kAnswer.data(), kAnswer.size(), MSG_NOSIGNAL);
    char unread[4096]; // what is left unread would destroy the answer
    ::recv(descriptor, unread, sizeof(unread), MSG_DONTWAIT);
  }

  std::unique_ptr<SSL, decltype(&SSL_free)> ssl;
  int descriptor;
  bool failed = false;
};

// Clients that would speak HTTP/2 as well learn that we do not.
int chooseProtocol(SSL *, const unsigned char **out, unsigned char *outSize,
                   const unsigned char *in, unsigned int inSize, void *) {
  static constexpr unsigned char kHttp11[] = "\x08http/1.1";
  unsigned char *chosen = nullptr;
  if (SSL_select_next_proto(&chosen, outSize, kHttp11, sizeof(kHttp11) - 1, in, inSize) !=
      OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_NOACK;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

Error opensslError(const std::string &what) {
  const unsigned long code = ERR_peek_last_error();
  char text[256] = "unknown";
  if (code != 0)
    ERR_error_string_n(code, text, sizeof(text));
  ERR_clear_error();
  return {Code::InvalidArgument, what + ": " + text};
}

class OpensslTls final : public Tls {
public:
  explicit OpensslTls(SSL_CTX *context) : context(context, SSL_CTX_free) {}

  std::unique_ptr<Transport> makeTransport(int descriptor) override {
    SSL *ssl = SSL_new(context.get());
    BIO *bio = socketMethod() ? BIO_new(socketMethod()) : nullptr;
    if (!ssl || !bio) {
      SSL_free(ssl);
      BIO_free(bio);
      return nullptr;
    }
    BIO_set_data(bio, reinterpret_cast<void *>(intptr_t(descriptor)));
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_accept_state(ssl);
    return std::make_unique<TlsTransport>(ssl, descriptor);
  }

  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context;
};
} // namespace

Result<std::shared_ptr<Tls>> Tls::create(const std::string &certificate,
                                         const std::string &privateKey) {
  auto tls = std::make_shared<OpensslTls>(SSL_CTX_new(TLS_server_method()));
  SSL_CTX *context = tls->context.get();
  if (!context)
    return opensslError("cannot set up TLS");
  ERR_clear_error();
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  // Buffers of connections that wait are given back: they are most of what a connection costs.
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_alpn_select_cb(context, chooseProtocol, nullptr);
  // Without a terminal that a key's passphrase could be asked on.
  SSL_CTX_set_default_passwd_cb(context, [](char *, int, int, void *) { return 0; });
  if (SSL_CTX_use_certificate_chain_file(context, certificate.c_str()) != 1)
    return opensslError("cannot use the certificate " + certificate +
                        " (expected a PEM file, the server's own first)");
  if (SSL_CTX_use_PrivateKey_file(context, privateKey.c_str(), SSL_FILETYPE_PEM) != 1) {
    const int reason = ERR_GET_REASON(ERR_peek_last_error());
    return opensslError(reason == X509_R_KEY_VALUES_MISMATCH || reason == X509_R_KEY_TYPE_MISMATCH
                            ? "the private key " + privateKey +
                                  " does not belong to the certificate " + certificate
                            : "cannot use the private key " + privateKey +
                                  " (expected a PEM file without a passphrase)");
  }
  return std::shared_ptr<Tls>(std::move(tls));
}

} // namespace moe::server::http
