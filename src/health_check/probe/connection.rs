//! Connections of probes.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::go_error_text;
use crate::model::{ProbeTarget, ProbeTls};

/// Connection of a probe.
#[derive(Debug)]
pub(super) enum ProbeStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connects to the first address of a target that is permitted and accepts. A name is resolved once, so that the probe connects
/// to the same address that was permitted.
pub(super) async fn connect(
    target: &ProbeTarget,
    permit: impl Fn(IpAddr) -> Result<(), &'static str>,
) -> Result<(TcpStream, IpAddr), String> {
    let addresses: Vec<SocketAddr> = match target.host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, target.port)],
        Err(_) => match lookup_host((&*target.host, target.port)).await {
            Ok(found) => found.collect(),
            Err(error) => return Err(format!("dial tcp: lookup {}: {error}", target.host)),
        },
    };
    let mut failure = format!("dial tcp: lookup {}: no such host", target.host);
    for address in addresses {
        if let Err(why) = permit(address.ip()) {
            failure = format!("dial tcp {address}: {} {why}", address.ip());
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(socket) => {
                // Requests are short: Nagle's algorithm would only delay them.
                let _ = socket.set_nodelay(true);
                return Ok((socket, address.ip()));
            }
            Err(error) => failure = format!("dial tcp {address}: {}", go_error_text(&error)),
        }
    }
    Err(failure)
}

/// Performs the TLS handshake.
pub(super) async fn handshake(
    socket: TcpStream,
    target: &ProbeTarget,
    tls: &ProbeTls,
    config: Arc<ClientConfig>,
    protocols: &[&[u8]],
) -> Result<ProbeStream, String> {
    let name = if tls.server_name.is_empty() { &target.host } else { &tls.server_name };
    let server = ServerName::try_from(name.to_string()).map_err(|error| format!("tls: {name}: {error}"))?;
    let config = if protocols.is_empty() {
        config
    } else {
        let mut config = (*config).clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    };
    let stream = TlsConnector::from(config).connect(server, socket).await;
    stream.map(|stream| ProbeStream::Tls(Box::new(stream))).map_err(|error| format!("tls: {error}"))
}

/// Returns the configuration of TLS, with or without verification of certificates.
pub(super) fn tls_config(verify: bool) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    if !verify {
        let verifier = Arc::new(NoCertificateVerification(provider));
        return Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Verifier that accepts all certificates, for checks that skip verification. Signatures of handshakes are verified nevertheless.
#[derive(Debug)]
struct NoCertificateVerification(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for NoCertificateVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Operations of both kinds of connections.
trait ProbeDuplex: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> ProbeDuplex for S {}

impl ProbeStream {
    fn inner(&mut self) -> Pin<&mut dyn ProbeDuplex> {
        match self {
            Self::Plain(socket) => Pin::new(socket),
            Self::Tls(stream) => Pin::new(stream),
        }
    }
}

impl AsyncRead for ProbeStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_read(context, to)
    }
}

impl AsyncWrite for ProbeStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(context)
    }
}
