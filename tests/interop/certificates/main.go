// Makes certificates for the suites with Go's standard library: go run main.go DIRECTORY [NAME…].
//
//	ca.pem                    certificate authority that the server trusts
//	server.pem, server.key    server certificate for localhost, 127.0.0.1 and the given names
//	renewed.pem, renewed.key  second certificate for the same names
//	client.pem, client.key    client certificate with a SPIFFE id
//	stranger.pem, .key        client certificate with the same SPIFFE id, signed by an unknown authority
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func key() *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

// valid sets the serial number and the validity period of a template.
func valid(template *x509.Certificate) *x509.Certificate {
	template.SerialNumber = must(rand.Int(rand.Reader, big.NewInt(1<<62)))
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().AddDate(1, 0, 0)
	return template
}

func newAuthority(name string) authority {
	template := valid(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	own := key()
	der := must(x509.CreateCertificate(rand.Reader, template, template, own.Public(), own))
	return authority{must(x509.ParseCertificate(der)), own}
}

// sign writes a certificate, signed by this authority, and its key.
func (a authority) sign(path string, template *x509.Certificate) {
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	own := key()
	der := must(x509.CreateCertificate(rand.Reader, valid(template), a.certificate, own.Public(), a.key))
	write(path+".pem", "CERTIFICATE", der)
	write(path+".key", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(own)))
}

func write(path, kind string, der []byte) {
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	must(0, os.WriteFile(path, text, 0o600))
}

func main() {
	directory := os.Args[1]
	must(0, os.MkdirAll(directory, 0o700))
	at := func(name string) string { return filepath.Join(directory, name) }
	trusted, unknown := newAuthority("interop"), newAuthority("elsewhere")
	write(at("ca.pem"), "CERTIFICATE", trusted.certificate.Raw)
	server := func() *x509.Certificate {
		return &x509.Certificate{DNSNames: append([]string{"localhost"}, os.Args[2:]...), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	}
	workload := func() *x509.Certificate {
		return &x509.Certificate{URIs: []*url.URL{must(url.Parse("spiffe://interop.example/client"))}}
	}
	trusted.sign(at("server"), server())
	trusted.sign(at("renewed"), server())
	trusted.sign(at("client"), workload())
	unknown.sign(at("stranger"), workload())
}
