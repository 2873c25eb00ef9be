//! Certificates: those of a private authority are believed where the operator says so, and for the host that they name.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use valetkey_core::Connector;
use valetkey_providers::{CaFile, NotSent, OutboundSettings, TokenOutcome};

use crate::support::{connector, provider_with, refresh};

/// An authority of nobody's knowledge, and its certificate as a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let encoded = data_encoding::BASE64_MIME.encode(issuer.der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{encoded}-----END CERTIFICATE-----\n").replace('\r', "");
        std::fs::write(directory.path().join("ca.pem"), pem).unwrap();
        Self { issuer, directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A token endpoint over TLS whose certificate names these hosts.
    fn serve(&self, hosts: &[&str]) -> SocketAddr {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(config);
        // Ends with the process; it holds nothing but this socket.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let connection = ServerConnection::new(config.clone()).unwrap();
                let mut stream = StreamOwned::new(connection, stream);
                // A client that does not believe us hangs up here.
                if stream.read(&mut [0; 4096]).is_ok() {
                    let body = r#"{"access_token":"a"}"#;
                    let head = "HTTP/1.1 200 X\r\nconnection: close\r\ncontent-type: application/json\r\n";
                    let _ = write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len());
                    let _ = stream.flush();
                }
            }
        });
        address
    }
}

fn trusting(ca_files: Vec<CaFile>) -> OutboundSettings {
    let allow_networks = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    OutboundSettings { allow_networks, ca_files, ..OutboundSettings::default() }
}

fn of_host(host: &str, file: &Path) -> CaFile {
    CaFile { host: Some(host.to_owned()), file: file.to_owned() }
}

fn at(host: &str, address: SocketAddr) -> Connector {
    let mut connector = connector("oauth2");
    connector.endpoints.token = Some(format!("https://{host}:{}/token", address.port()));
    connector
}

async fn ask(ca_files: Vec<CaFile>, host: &str, address: SocketAddr) -> TokenOutcome {
    refresh(&provider_with(trusting(ca_files)), &at(host, address)).await
}

#[track_caller]
fn is_refused(outcome: &TokenOutcome) {
    assert!(matches!(outcome, TokenOutcome::NotSent(NotSent::Tls)), "{outcome:?}");
}

#[tokio::test]
async fn a_private_authority_is_believed_when_its_file_is_listed() {
    let authority = Authority::new();
    let address = authority.serve(&["localhost", "127.0.0.1"]);
    assert_eq!(ask(vec![authority.file().into()], "localhost", address).await.code(), "granted");
    is_refused(&ask(Vec::new(), "localhost", address).await);
    let another = Authority::new();
    is_refused(&ask(vec![another.file().into()], "localhost", address).await);
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let authority = Authority::new();
    let address = authority.serve(&["idp.internal"]);
    is_refused(&ask(vec![authority.file().into()], "localhost", address).await);
    is_refused(&ask(vec![of_host("localhost", &authority.file())], "localhost", address).await);
}

#[tokio::test]
async fn an_authority_that_is_listed_for_a_host_speaks_for_no_other() {
    let authority = Authority::new();
    let address = authority.serve(&["localhost", "127.0.0.1"]);
    let file = authority.file();
    assert_eq!(ask(vec![of_host("localhost", &file)], "localhost", address).await.code(), "granted");
    assert_eq!(ask(vec![of_host("localhost", &file)], "LOCALHOST", address).await.code(), "granted");
    is_refused(&ask(vec![of_host("localhost", &file)], "127.0.0.1", address).await);
    assert_eq!(ask(vec![of_host("127.0.0.1", &file)], "127.0.0.1", address).await.code(), "granted");
    is_refused(&ask(vec![of_host("idp.internal", &file)], "localhost", address).await);
    // Another host's entry does not take away what everybody's gives.
    let another = Authority::new();
    let both = vec![file.into(), of_host("localhost", &another.file())];
    assert_eq!(ask(both, "localhost", address).await.code(), "granted");
}

#[tokio::test]
async fn a_believed_certificate_does_not_open_the_network() {
    let authority = Authority::new();
    let address = authority.serve(&["localhost"]);
    let settings = OutboundSettings { ca_files: vec![authority.file().into()], ..OutboundSettings::default() };
    let outcome = refresh(&provider_with(settings), &at("localhost", address)).await;
    assert!(matches!(outcome, TokenOutcome::NotSent(NotSent::AddressRefused)), "{outcome:?}");
}
