//! TLS 1.3 with raw public keys (RFC 7250): the validator's ed25519 key *is* the TLS identity.
//!
//! No certificates, no authority, no lifetimes: an end proves that it holds a key, and the key is
//! in the set of peers or the handshake fails. The set is asked at every handshake, so a change
//! applies to the next one; links that exist are closed by whoever changes the set.
//!
//! Only TLS 1.3, only ed25519 signatures, only X25519, two cipher suites. No session tickets and
//! no resumption: a resumed session would skip the question to the set. No 0-RTT: what it carries
//! can be replayed. No server name: it would say nothing. The application protocol is
//! [`ALPN`]; an end of another version fails the handshake.
//!
//! A dialler's handshake succeeds before the other end has judged its key; that refusal arrives as
//! a close, one flight later. So a finished handshake is not yet a link.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use ed25519_dalek::SigningKey;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    NamedGroup, ServerConfig, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key},
    pki_types::{
        CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
    },
    server::{
        AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

use crate::{transport::peers::PeerTable, types::Author};

/// The application protocol: this crate's wire format, version 1.
pub(super) const ALPN: &[u8] = b"qs/1";

/// DER of a `SubjectPublicKeyInfo` with algorithm ed25519, up to the 32 bytes of the key
/// (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// DER of a PKCS #8 private key with algorithm ed25519, up to the 32 bytes of the seed
/// (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The key in a raw public key as TLS carries it.
pub(super) fn author_of(der: &[u8]) -> Option<Author> {
    der.strip_prefix(&SPKI_PREFIX)?.try_into().ok().map(Author)
}

/// What makes the TLS side of every handshake of this process.
pub(super) struct Tls {
    identity: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    /// Weak: connections keep their verifier, and the table keeps the connections.
    peers: Weak<PeerTable>,
}

impl Tls {
    pub(super) fn new(key: &SigningKey, peers: &Arc<PeerTable>) -> Result<Self, Error> {
        let peers = Arc::downgrade(peers);
        Ok(Self { identity: identity(key)?, provider: Arc::new(provider()), peers })
    }

    /// For accepting: any key of the set.
    pub(super) fn server(&self) -> Result<ServerConfig, Error> {
        let resolver = AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&self.identity));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(self.verifier(None)))
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// For dialling: this key and no other.
    pub(super) fn client(&self, expected: Author) -> Result<ClientConfig, Error> {
        let resolver = AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&self.identity));
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.verifier(Some(expected))))
            .with_client_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_early_data = false;
        Ok(config)
    }

    fn verifier(&self, expected: Option<Author>) -> Verifier {
        Verifier { provider: Arc::clone(&self.provider), peers: Weak::clone(&self.peers), expected }
    }
}

fn identity(key: &SigningKey) -> Result<Arc<CertifiedKey>, Error> {
    let mut pkcs8 = Zeroizing::new([0_u8; 48]);
    let seed = Zeroizing::new(key.to_bytes());
    pkcs8[..16].copy_from_slice(&PKCS8_PREFIX);
    pkcs8[16..].copy_from_slice(&*seed);
    let signer = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&pkcs8[..]))?;
    let spki = [&SPKI_PREFIX[..], key.verifying_key().as_bytes()].concat();
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], signer)))
}

fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    // AES-128 first: fastest where the processor helps. QUIC needs it for its first packets anyhow.
    provider.cipher_suites.retain(|suite| {
        matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256 | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        )
    });
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    provider
}

/// Judges the key of the other end. The signature that proves it is checked by rustls' own code.
struct Verifier {
    provider: Arc<CryptoProvider>,
    peers: Weak<PeerTable>,
    /// When dialling: the one key we mean to talk to.
    expected: Option<Author>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl Verifier {
    /// A raw public key, alone, of a member of the set, and the expected one if there is one.
    fn judge(&self, key: &[u8], rest: &[CertificateDer<'_>]) -> Result<(), Error> {
        let key = author_of(key).filter(|_| rest.is_empty());
        let Some(key) = key else {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        };
        let member = self.peers.upgrade().is_some_and(|peers| peers.get(&key).is_some());
        if self.expected.is_some_and(|expected| expected != key) || !member {
            tracing::warn!(
                %key,
                expected = self.expected.map(tracing::field::display),
                "refused a key that is not in the set of peers or not the one dialled",
            );
            return Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ));
        }
        Ok(())
    }

    fn check_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(key.as_ref()),
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }
}

fn only_tls13() -> Error {
    Error::General("TLS 1.3 is the only version".into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(key, rest).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(key, rest).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
