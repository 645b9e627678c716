//! The socket and the settings of the QUIC library.
//!
//! # Datagram size
//!
//! Large datagrams carry several times more per core, with two traps. With segmentation offload
//! the library hands up to ten datagrams to the system at once; ten of them above 64 KiB together
//! are refused, silently, until the connection concludes that large datagrams do not pass and
//! falls back to 1,200 bytes. So the largest size is 6,500 bytes with offload, or 65,000 without
//! it. And the size is always discovered, never assumed: a fixed size that the path does not carry
//! loses a third of all packets. [`LinkStatus`] shows size and fallbacks.
//!
//! # Windows
//!
//! `W` is the stream window. What a peer has sent on one stream and we have not read is at most
//! `W`. A connection carries two streams in each direction, so a connection window of `2 W` and a
//! little can never be used up by bulk alone, and control always finds room. The send window bounds
//! what we hold until it is acknowledged; `4 W` keeps bulk (at most about `W`) from taking it all.
//!
//! [`LinkStatus`]: crate::transport::LinkStatus

use std::{
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use ed25519_dalek::SigningKey;
use quinn::{
    AsyncTimer, AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    MtuDiscoveryConfig, Runtime, ServerConfig, TokioRuntime, TransportConfig, VarInt,
    congestion::CubicConfig,
    crypto::{CryptoError, HmacKey, rustls::QuicServerConfig},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use zeroize::Zeroizing;

use super::{QuicConfig, TransportError, tls::Tls};
use crate::transport::tasks::Tasks;

/// Contexts of BLAKE3 key derivation; they keep these keys apart from all other uses of the seed.
const RESET_CONTEXT: &str = "quorum-store 2026-11 QUIC stateless reset key v1";
const CONNECTION_ID_CONTEXT: &str = "quorum-store 2026-11 QUIC connection id key v1";

/// Largest datagram we receive, and largest one that discovery tries, by mode.
const LOOPBACK: DatagramSizes =
    DatagramSizes { receive_max: 65_527, discover_max: 65_000, initial_window: 10 * 65_000 };
const NETWORK: DatagramSizes =
    DatagramSizes { receive_max: 6_500, discover_max: 6_500, initial_window: 10 * 6_500 };

struct DatagramSizes {
    receive_max: u16,
    discover_max: u16,
    /// Bytes in flight before the first acknowledgement: ten datagrams of the largest size, as
    /// RFC 9002 (section 7.2) has it. The library's value is for small ones: one large probe in
    /// flight would then block everything else.
    initial_window: u64,
}

fn datagram_sizes(config: &QuicConfig) -> DatagramSizes {
    if config.loopback { LOOPBACK } else { NETWORK }
}

pub(super) fn transport_config(config: &QuicConfig) -> TransportConfig {
    let window = config.stream_window_bytes;
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(datagram_sizes(config).discover_max);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(datagram_sizes(config).initial_window);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(2))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(window))
        // At most 1 GiB by `validate`, so neither product leaves its type.
        .receive_window(VarInt::from_u32(2 * window + (64 << 10)))
        .send_window(4 * u64::from(window))
        // Before the first sample. A third of the standard's value: first packets that meet a peer
        // not yet listening are repeated after 0.3 s instead of 1 s.
        .initial_rtt(Duration::from_millis(100))
        .keep_alive_interval(Some(config.keep_alive))
        .max_idle_timeout(config.idle_timeout.try_into().ok())
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(congestion))
        .enable_segmentation_offload(!config.loopback);
    transport
}

/// Binds the socket and starts the library on it. Connections are not accepted before
/// [`Endpoint::accept`] is called.
pub(super) fn open(
    config: &QuicConfig,
    key: &SigningKey,
    tls: &Tls,
    transport: &Arc<TransportConfig>,
    drivers: Tasks,
) -> Result<Endpoint, TransportError> {
    let crypto = QuicServerConfig::try_from(tls.server()?)
        .map_err(|_| rustls::Error::General("no cipher suite for QUIC's first packets".into()))?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(Arc::clone(transport))
        .migration(false)
        .max_incoming(config.pending_handshakes_max)
        .incoming_buffer_size(64 << 10)
        .incoming_buffer_size_total((64 << 10) * config.pending_handshakes_max as u64);
    let listen = |source| TransportError::Listen { address: config.listen, source };
    let socket = bind(config).map_err(listen)?;
    let runtime = Arc::new(JoinedRuntime { drivers });
    Endpoint::new(endpoint_config(config, key), Some(server), socket, runtime).map_err(listen)
}

fn bind(config: &QuicConfig) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(config.listen);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if domain == Domain::IPV6 {
        // One socket for both families where the system allows it; not all do.
        if let Err(error) = socket.set_only_v6(false) {
            tracing::debug!(%error, "this socket reaches IPv6 peers only");
        }
    }
    // Smaller buffers cost throughput, not correctness: what the system grants is good enough.
    for set in [Socket::set_recv_buffer_size, Socket::set_send_buffer_size] {
        if let Err(error) = set(&socket, config.socket_buffer_bytes) {
            tracing::debug!(%error, "socket buffer size not granted");
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&config.listen.into())?;
    let socket = UdpSocket::from(socket);
    log_buffers(config, &socket);
    Ok(socket)
}

fn log_buffers(config: &QuicConfig, socket: &UdpSocket) {
    let socket = SockRef::from(socket);
    let (receive, send) = (socket.recv_buffer_size(), socket.send_buffer_size());
    tracing::info!(
        asked = config.socket_buffer_bytes,
        receive = receive.unwrap_or(0),
        send = send.unwrap_or(0),
        "socket buffers in bytes, as granted (Linux counts double)",
    );
}

/// The key of resets is derived from the identity, so that a restarted process answers packets for
/// connections of its previous life with resets that the peers believe. With a random key they
/// would wait for the idle timeout.
fn endpoint_config(config: &QuicConfig, key: &SigningKey) -> EndpointConfig {
    let seed = Zeroizing::new(key.to_bytes());
    let reset_key = ResetKey(Zeroizing::new(blake3::derive_key(RESET_CONTEXT, &*seed)));
    let id_key = Zeroizing::new(blake3::derive_key(CONNECTION_ID_CONTEXT, &*seed));
    let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
    endpoint.cid_generator(move || Box::new(ConnectionIds::new(&id_key)));
    // Only values below 1,200 are errors.
    let sized = endpoint.max_udp_payload_size(datagram_sizes(config).receive_max);
    debug_assert!(sized.is_ok());
    endpoint
}

/// Connection ids nobody can foresee and no life repeats. The library's own carry a check that a
/// restarted process would fail, and then it would not answer old connections at all.
struct ConnectionIds {
    key: Zeroizing<[u8; 32]>,
    counter: u64,
}

impl ConnectionIds {
    const BYTES: usize = 8;

    fn new(key: &[u8; 32]) -> Self {
        // The standard library seeds its hash maps from the system; the number marks this life.
        let life = RandomState::new().build_hasher().finish();
        let key = blake3::keyed_hash(key, &life.to_le_bytes());
        Self { key: Zeroizing::new(*key.as_bytes()), counter: 0 }
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.counter += 1;
        let id = blake3::keyed_hash(&self.key, &self.counter.to_le_bytes());
        ConnectionId::new(&id.as_bytes()[..Self::BYTES])
    }

    fn cid_len(&self) -> usize {
        Self::BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Makes the tokens of stateless resets (RFC 9000, section 10.3).
struct ResetKey(Zeroizing<[u8; 32]>);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        blake3::Hasher::new_keyed(&self.0).update(data).finalize_xof().fill(signature_out);
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let expected = blake3::keyed_hash(&self.0, data);
        let signature = <[u8; blake3::OUT_LEN]>::try_from(signature).map_err(|_| CryptoError)?;
        // Compares in constant time.
        if expected == signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// Tokio, with the library's tasks in our care: shutdown waits for them, so the socket is closed
/// and its port free when shutdown is over.
struct JoinedRuntime {
    drivers: Tasks,
}

impl fmt::Debug for JoinedRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinedRuntime")
    }
}

impl Runtime for JoinedRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.drivers.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}
