#include "runtime/server/http/TestClient.h"

#include <atomic>
#include <csignal>
#include <fstream>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

using namespace moe;
using namespace moe::server::http;
using namespace std::chrono_literals;

namespace {
// A certificate that signs itself, and its key, as PEM files until the end.
class TestCertificate {
public:
  TestCertificate() {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *made = X509_new();
    X509_set_version(made, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(made), 1);
    X509_gmtime_adj(X509_getm_notBefore(made), -60);
    X509_gmtime_adj(X509_getm_notAfter(made), 3600);
    X509_set_pubkey(made, key);
    X509_NAME *name = X509_get_subject_name(made);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char *>("localhost"), -1, -1, 0);
    X509_set_issuer_name(made, name);
    X509_sign(made, key, EVP_sha256());
    std::FILE *file = std::fopen(certificate.c_str(), "w");
    PEM_write_X509(file, made);
    std::fclose(file);
    file = std::fopen(privateKey.c_str(), "w");
    PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
    std::fclose(file);
    X509_free(made);
    EVP_PKEY_free(key);
  }
  ~TestCertificate() {
    ::unlink(certificate.c_str());
    ::unlink(privateKey.c_str());
  }

  static inline int made = 0;
  const std::string stem =
      testing::TempDir() + "moe-tls-" + std::to_string(::getpid()) + "-" + std::to_string(made++);
  const std::string certificate = stem + ".crt", privateKey = stem + ".key";
};

// Speaks TLS over a client's socket, which waits.
class TlsClient {
public:
  TlsClient(uint16_t port, const TestCertificate &trusted, std::string_view protocols = {},
            int most = 0)
      : client(port) {
    SSL_CTX_load_verify_file(context.get(), trusted.certificate.c_str());
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
    if (most)
      SSL_CTX_set_max_proto_version(context.get(), most);
    ssl.reset(SSL_new(context.get()));
    if (!protocols.empty())
      SSL_set_alpn_protos(ssl.get(), reinterpret_cast<const unsigned char *>(protocols.data()),
                          unsigned(protocols.size()));
    SSL_set_fd(ssl.get(), client.socket());
    connected = SSL_connect(ssl.get()) == 1;
  }
  bool send(std::string_view data) {
    return SSL_write(ssl.get(), data.data(), int(data.size())) == int(data.size());
  }
  bool more() {
    char data[20000];
    const int got = SSL_read(ssl.get(), data, sizeof(data));
    if (got > 0)
      input.append(data, size_t(got));
    return got > 0;
  }
  // The body of a response with a length.
  std::string response() {
    size_t end = 0;
    while ((end = input.find("\r\n\r\n")) == input.npos)
      if (!more())
        return "ended in the header: " + input;
    const size_t at = input.find("content-length: ");
    const size_t length = std::strtoul(input.c_str() + at + 16, nullptr, 10);
    while (input.size() < end + 4 + length)
      if (!more())
        return "ended in the body";
    std::string body = input.substr(end + 4, length);
    input.erase(0, end + 4 + length);
    return body;
  }
  std::string protocol() const {
    const unsigned char *text = nullptr;
    unsigned size = 0;
    SSL_get0_alpn_selected(ssl.get(), &text, &size);
    return std::string(reinterpret_cast<const char *>(text), size);
  }

  Client client;
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context{SSL_CTX_new(TLS_client_method()),
                                                            SSL_CTX_free};
  std::unique_ptr<SSL, decltype(&SSL_free)> ssl{nullptr, SSL_free};
  std::string input;
  bool connected = false;
};

Options withTls(const TestCertificate &made) {
  Options options;
  options.certificate = made.certificate;
  options.privateKey = made.privateKey;
  return options;
}

void echo(const HttpRequest &request, const std::shared_ptr<Reply> &reply) {
  reply->send(200, "text/plain", request.body.empty() ? request.path : request.body);
}

class Tls : public testing::Test {
protected:
  // Clients of OpenSSL write to sockets that the server may have closed.
  static void SetUpTestSuite() { ::signal(SIGPIPE, SIG_IGN); }
  TestCertificate made;
};

TEST_F(Tls, ServesOverTls) {
  TestServer server(echo, withTls(made));
  for (const int most : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    TlsClient client(server.port(), made, {}, most);
    ASSERT_TRUE(client.connected);
    EXPECT_EQ(SSL_version(client.ssl.get()), most);
    client.send(get("/one") + get("/two"));
    EXPECT_EQ(client.response(), "/one");
    EXPECT_EQ(client.response(), "/two");
  }
  TlsClient old(server.port(), made, {}, TLS1_1_VERSION);
  EXPECT_FALSE(old.connected);
  TlsClient both(server.port(), made, "\x02h2\x08http/1.1");
  EXPECT_TRUE(both.connected);
  EXPECT_EQ(both.protocol(), "http/1.1");
}

TEST_F(Tls, CarriesLargeBodies) {
  TestServer server(echo, withTls(made));
  std::string large(2 << 20, 'x');
  for (size_t i = 0; i < large.size(); ++i)
    large[i] = char(i * 11 + i / 509);
  TlsClient client(server.port(), made);
  ASSERT_TRUE(client.connected);
  client.send(post("/", large));
  EXPECT_EQ(client.response(), large);
  client.send(get("/after"));
  EXPECT_EQ(client.response(), "/after");
}

TEST_F(Tls, StreamsAndSeesClientsGo) {
  std::atomic<int> gone = 0;
  TestServer server(
      [&](const HttpRequest &, const std::shared_ptr<Reply> &reply) {
        reply->onGone([&, reply] { ++gone; });
        reply->start(200, "text/plain");
        reply->write("hello");
      },
      withTls(made));
  {
    TlsClient client(server.port(), made);
    client.send(get("/"));
    while (client.input.find("5\r\nhello\r\n") == std::string::npos)
      ASSERT_TRUE(client.more());
    SSL_shutdown(client.ssl.get());
    EXPECT_TRUE(eventually([&] { return gone == 1; }));
  }
  {
    TlsClient client(server.port(), made);
    client.send(get("/"));
    ASSERT_TRUE(client.more());
    client.client.reset();
    EXPECT_TRUE(eventually([&] { return gone == 2; }));
  }
  EXPECT_TRUE(eventually([&] { return server.connections() == 0; }));
}

TEST_F(Tls, EndsHandshakesThatAreNone) {
  Options options = withTls(made);
  options.limits.headerTime = 300ms;
  const size_t before = openDescriptors();
  {
    TestServer server(echo, options);
    Client plain(server.port());
    plain.send(get("/"));
    const auto response = plain.response();
    ASSERT_TRUE(response);
    EXPECT_EQ(response->status, 400);
    EXPECT_EQ(response->body, "this port speaks TLS: use https:\n");
    Client garbage(server.port());
    garbage.send("\x16\x03\x01garbage that is no hello of any client");
    while (garbage.more()) { // an alert, perhaps
    }
    Client silent(server.port()), half(server.port());
    half.send("\x16\x03\x01\x02");
    EXPECT_TRUE(silent.ended(5s));
    while (half.more()) {
    }
    EXPECT_TRUE(eventually([&] { return server.connections() == 0; }));
    for (int i = 0; i < 50; ++i) {
      Client client(server.port());
      client.send(std::string_view("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", size_t(i % 12)));
      client.reset();
    }
    EXPECT_TRUE(eventually([&] { return server.connections() == 0; }));
    TlsClient good(server.port(), made);
    good.send(get("/good"));
    EXPECT_EQ(good.response(), "/good");
  }
  EXPECT_EQ(openDescriptors(), before);
}

TEST_F(Tls, SaysWhichFileCannotBeUsed) {
  const auto messageOf = [](const Options &options) {
    const auto result = Server::create(options, echo);
    return result ? std::string("made") : result.error().message;
  };
  Options options = withTls(made);
  options.port = 0;
  EXPECT_EQ(messageOf(options), "made");
  const TestCertificate another;
  options.privateKey = another.privateKey;
  EXPECT_NE(messageOf(options).find("the private key " + another.privateKey +
                                    " does not belong to the certificate"),
            std::string::npos)
      << messageOf(options);
  options.privateKey = made.certificate;
  EXPECT_NE(messageOf(options).find("cannot use the private key " + made.certificate),
            std::string::npos)
      << messageOf(options);
  options = withTls(made);
  options.certificate = "/no/such.crt";
  EXPECT_NE(messageOf(options).find("cannot use the certificate /no/such.crt"), std::string::npos)
      << messageOf(options);
  std::ofstream(made.certificate, std::ios::trunc) << "nonsense";
  EXPECT_NE(messageOf(withTls(made)).find("cannot use the certificate " + made.certificate),
            std::string::npos);
}
} // namespace
