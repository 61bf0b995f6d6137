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

// Mutual TLS with grpc-go's own credentials.

// certificatePath returns the path of a file that ../certificates has made.
func certificatePath(name string) string { return filepath.Join(os.Getenv("CERTIFICATES"), name) }

// tlsConfig returns the configuration of a client with this certificate; an empty name means no certificate.
func tlsConfig(client string) *tls.Config {
	roots := x509.NewCertPool()
	check(roots.AppendCertsFromPEM(must(os.ReadFile(certificatePath("ca.pem")))), "ca.pem has no certificate")
	config := &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"h2"}}
	if client != "" {
		pair := must(tls.LoadX509KeyPair(certificatePath(client+".pem"), certificatePath(client+".key")))
		// Not `Certificates`: from those Go sends only a certificate that matches the authorities which the server accepts.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return config
}

func connectSecure(address, client string) *grpc.ClientConn {
	return must(grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig(client)))))
}

// serverSerial returns the serial number of the certificate that the server presents to new connections.
func serverSerial(address string) *big.Int {
	conn := must(tls.Dial("tcp", address, tlsConfig("client")))
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber
}

func speaksTLS(w *fixture) {
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
	check(identity == "spiffe://interop.example/client", "the watcher is listed with identity %q", identity)

	// The certificate files are replaced while the stream is open.
	before := serverSerial(w.server.grpcTLS)
	for _, kind := range []string{".pem", ".key"} {
		must(0, os.WriteFile(certificatePath("server"+kind), must(os.ReadFile(certificatePath("renewed"+kind))), 0o600))
	}
	deadline := time.Now().Add(2 * eventTimeout)
	for serverSerial(w.server.grpcTLS).Cmp(before) == 0 {
		check(time.Now().Before(deadline), "the server does not present the renewed certificate")
	}
	must(registry.Register(w.ctx, bootOf("secure", "s-2", time.Minute)))
	watch.updated("secure/s-2")
	later := connectSecure(w.server.grpcTLS, "client")
	defer later.Close()
	listed := must(pb.NewDiscoveryServiceClient(later).ListInstances(w.ctx, &pb.ListInstancesRequest{Service: "secure"}))
	check(len(listed.Instances) == 2, "a new connection lists %v", listed.Instances)
}

func needsTrustedCertificate(w *fixture) {
	expectError := func(conn *grpc.ClientConn, reason string) {
		defer conn.Close()
		ctx, cancel := context.WithTimeout(w.ctx, eventTimeout)
		defer cancel()
		_, err := pb.NewDiscoveryServiceClient(conn).ListServices(ctx, &pb.ListServicesRequest{})
		check(status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), reason), "expected %q, got %v", reason, err)
	}
	expectError(connectSecure(w.server.grpcTLS, ""), "certificate required")
	expectError(connectSecure(w.server.grpcTLS, "stranger"), "unknown certificate authority")
	// The server gives the reason in a GOAWAY. grpc-go does not always include its text in the error.
	expectError(connect(w.server.grpcTLS), "")
}
