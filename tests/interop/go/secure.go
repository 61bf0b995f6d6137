package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	pb "callboard.dev/proto/callboard/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// TLS with certificates on both sides, by grpc-go's own credentials.

// papers are the files that ../certificates makes.
func papers(name string) string { return filepath.Join(os.Getenv("CERTIFICATES"), name) }

// secure is how a client with this certificate speaks TLS; without a name it has none.
func secure(client string) *tls.Config {
	roots := x509.NewCertPool()
	check(roots.AppendCertsFromPEM(must(os.ReadFile(papers("ca.pem")))), "ca.pem has no certificate")
	config := &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"h2"}}
	if client != "" {
		pair := must(tls.LoadX509KeyPair(papers(client+".pem"), papers(client+".key")))
		// Not `Certificates`: Go would keep back one of which it knows that it will not be accepted.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return config
}

func connectSecure(address, client string) *grpc.ClientConn {
	return must(grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(secure(client)))))
}

// shown is the number of the certificate that new connections are shown.
func shown(address string) *big.Int {
	conn := must(tls.Dial("tcp", address, secure("client")))
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber
}

func speaksTLS(w *world) {
	conn := connectSecure(w.server.grpcTLS, "client")
	defer conn.Close()
	registry := pb.NewRegistryServiceClient(conn)
	watch := open(w.ctx, conn, &pb.WatchRequest{Services: []string{"secure"}}, nil)
	defer watch.close()
	watch.synced()
	must(registry.Register(w.ctx, bootOf("secure", "s-1", time.Minute)))
	watch.updated("secure/s-1")
	watchers := must(pb.NewAdminServiceClient(conn).ListWatchers(w.ctx, &pb.ListWatchersRequest{Service: "secure"}))
	identity := watchers.Watchers[0].Identity
	check(identity == "spiffe://interop.example/client", "the watch is listed as of %q", identity)

	// Renewed while the stream lives.
	before := shown(w.server.grpcTLS)
	for _, kind := range []string{".pem", ".key"} {
		must(0, os.WriteFile(papers("server"+kind), must(os.ReadFile(papers("renewed"+kind))), 0o600))
	}
	deadline := time.Now().Add(2 * patience)
	for shown(w.server.grpcTLS).Cmp(before) == 0 {
		check(time.Now().Before(deadline), "the renewed certificate is not shown")
	}
	must(registry.Register(w.ctx, bootOf("secure", "s-2", time.Minute)))
	watch.updated("secure/s-2")
	later := connectSecure(w.server.grpcTLS, "client")
	defer later.Close()
	listed := must(pb.NewDiscoveryServiceClient(later).ListInstances(w.ctx, &pb.ListInstancesRequest{Service: "secure"}))
	check(len(listed.Instances) == 2, "over a new connection: %v", listed.Instances)
}

func isRefusedWithoutCertificate(w *world) {
	refused := func(conn *grpc.ClientConn, reason string) {
		defer conn.Close()
		ctx, cancel := context.WithTimeout(w.ctx, patience)
		defer cancel()
		_, err := pb.NewDiscoveryServiceClient(conn).ListServices(ctx, &pb.ListServicesRequest{})
		check(status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), reason), "wanted %q: %v", reason, err)
	}
	refused(connectSecure(w.server.grpcTLS, ""), "certificate required")
	refused(connectSecure(w.server.grpcTLS, "stranger"), "unknown certificate authority")
	// It is told why in a GOAWAY, of which grpc-go passes on the words, or that there was one.
	refused(connect(w.server.grpcTLS), "")
}
