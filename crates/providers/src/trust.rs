//! Whose certificates are believed: the system's authorities, and the operator's, for every host or for one.

use std::{collections::HashMap, convert::Infallible, error::Error, path::PathBuf, str::FromStr, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use crate::OutboundError;

/// A PEM file of further certificate authorities: of every host, or of the one that stands before it, `host=file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaFile {
    /// The only host that these authorities speak for.
    pub host: Option<String>,
    /// The file.
    pub file: PathBuf,
}

impl FromStr for CaFile {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.split_once('=') {
            // What holds a slash is the path of a file with an odd name.
            Some((host, file)) if !host.is_empty() && !host.contains('/') => {
                Self { host: Some(host.trim_end_matches('.').to_ascii_lowercase()), file: file.into() }
            }
            _ => Self { host: None, file: text.into() },
        })
    }
}

impl From<PathBuf> for CaFile {
    fn from(file: PathBuf) -> Self {
        Self { host: None, file }
    }
}

/// The settings of TLS.
pub(crate) fn tls_config(ca_files: &[CaFile]) -> Result<ClientConfig, OutboundError> {
    let mut everybody = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    everybody.add_parsable_certificates(native.certs);
    for ca in ca_files.iter().filter(|ca| ca.host.is_none()) {
        add(&mut everybody, ca)?;
    }
    let mut hosts: HashMap<String, RootCertStore> = HashMap::new();
    for ca in ca_files {
        if let Some(host) = &ca.host {
            add(hosts.entry(host.clone()).or_insert_with(|| everybody.clone()), ca)?;
        }
    }
    if everybody.is_empty() && hosts.is_empty() {
        tracing::warn!("this machine has no certificate authorities: no HTTPS call can succeed");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(OutboundError::Tls)?;
    if hosts.is_empty() {
        return Ok(builder.with_root_certificates(everybody).with_no_client_auth());
    }
    let verifier = Arc::new(ByHost::new(everybody, hosts, provider)?);
    // "Dangerous" names the way to a verifier of one's own: this one only chooses between the library's.
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn add(roots: &mut RootCertStore, ca: &CaFile) -> Result<(), OutboundError> {
    let fault = |source: Box<dyn Error + Send + Sync>| OutboundError::CaFile { file: ca.file.clone(), source };
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(&ca.file).and_then(Iterator::collect).map_err(|error| fault(error.into()))?;
    if certificates.is_empty() {
        return Err(fault("it holds no certificate".into()));
    }
    for certificate in certificates {
        roots.add(certificate).map_err(|error| fault(error.into()))?;
    }
    Ok(())
}

/// The library's verifier, with other authorities for some hosts.
#[derive(Debug)]
struct ByHost {
    /// None where this machine has no authorities.
    everybody: Option<Arc<WebPkiServerVerifier>>,
    hosts: HashMap<String, Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ByHost {
    fn new(
        everybody: RootCertStore,
        hosts: HashMap<String, RootCertStore>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, OutboundError> {
        let verifier = |roots: RootCertStore| {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| OutboundError::Tls(rustls::Error::General(error.to_string())))
        };
        let everybody = if everybody.is_empty() { None } else { Some(verifier(everybody)?) };
        let hosts = hosts.into_iter().map(|(host, roots)| Ok((host, verifier(roots)?)));
        Ok(Self { everybody, hosts: hosts.collect::<Result<_, OutboundError>>()?, provider })
    }
}

impl ServerCertVerifier for ByHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let host = server_name.to_str();
        let verifier = self.hosts.get(host.trim_end_matches('.')).or(self.everybody.as_ref());
        let verifier = verifier.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_name_the_host_that_it_is_for() {
        let read = |text: &str| text.parse::<CaFile>().unwrap();
        assert_eq!(read("ca.pem"), CaFile { host: None, file: "ca.pem".into() });
        assert_eq!(read("/etc/ca=1.pem"), CaFile { host: None, file: "/etc/ca=1.pem".into() });
        let of_host = CaFile { host: Some("idp.internal".to_owned()), file: "/etc/ca=1.pem".into() };
        assert_eq!(read("IDP.internal.=/etc/ca=1.pem"), of_host);
    }

    #[test]
    fn a_file_of_certificates_must_hold_some() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        for content in [None, Some("nothing")] {
            if let Some(content) = content {
                std::fs::write(&file, content).unwrap();
            }
            for host in [None, Some("idp.internal".to_owned())] {
                let ca = CaFile { host, file: file.clone() };
                assert!(matches!(tls_config(&[ca]), Err(OutboundError::CaFile { .. })));
            }
        }
    }
}
