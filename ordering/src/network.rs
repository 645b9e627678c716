//! Links to the other participants, and how many of them there are.

use crate::{
    EngineConfig, Participant,
    committee::{decode_key, key_bytes, namespaces},
    config::Identity,
};
use commonware_cryptography::{
    ChaCha20Poly1305,
    ed25519::{PrivateKey, PublicKey},
};
use commonware_p2p::{
    Address, AddressableManager as _, CheckedSender as _, LimitedSender as _, Recipients,
    authenticated::lookup,
};
use commonware_runtime::{Quota, Supervisor as _, tokio::Context};
use commonware_stream::{
    SakeCups,
    cups::{self, Cups},
    sake::{self, Sake},
};
use commonware_utils::{NZU32, NZUsize, ordered::Map};
use std::{num::NonZeroUsize, time::Duration};

/// Largest message in bytes. The largest real one is a certificate: about 70 bytes per participant.
const MESSAGE_BYTES_MAX: u32 = 1 << 20;

/// Messages per second on one channel from one peer. A view takes about six, so that this leaves
/// room for a hundred views a second and for catching up at the same time.
const MESSAGES_PER_SECOND_MAX: u32 = 1000;

/// Clocks of peers may differ by this much, or their handshakes fail.
const CLOCK_ALLOWANCE: Duration = Duration::from_secs(5);

/// One participant is dialled this often while links are missing.
const DIAL_INTERVAL: Duration = Duration::from_millis(100);

/// A peer that was dialled or accepted is not tried again for this long. Two that dial each other
/// at the same time refuse each other, so at a common start it is also the price of a collision.
const REDIAL_COOLDOWN: Duration = Duration::from_millis(250);

/// A link that carries nothing else carries a ping this often. The runtime gives a silent link up
/// after [`LINK_SILENCE_MAX`].
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// A link on which nothing arrives, or cannot be written to, for this long is closed.
pub(crate) const LINK_SILENCE_MAX: Duration = Duration::from_secs(10);

/// A connection that is not established in this time is given up.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes per second from one address; all participants may share one in a test.
const HANDSHAKES_PER_ADDRESS_MAX: u32 = 128;

/// Handshakes per second from one subnet.
const HANDSHAKES_PER_SUBNET_MAX: u32 = 256;

type Upgrader = SakeCups<PrivateKey, ChaCha20Poly1305>;
type Sender = lookup::Sender<PublicKey, Context>;
type Receiver = lookup::Receiver<PublicKey>;

/// Both ends of a channel.
pub(crate) type Channel = (Sender, Receiver);

/// Blocks and tracks peers.
pub(crate) type Oracle = lookup::Oracle<PublicKey>;

/// The links of one engine, not yet started.
pub(crate) struct Network {
    /// Moves the bytes once started.
    pub(crate) lookup: lookup::Network<Context, Upgrader>,
    /// Refuses peers.
    pub(crate) oracle: Oracle,
    /// Single votes.
    pub(crate) votes: Channel,
    /// Certificates as they are made.
    pub(crate) certificates: Channel,
    /// Requests for missed certificates.
    pub(crate) requests: Channel,
    /// Tells who is connected.
    pub(crate) links: Links,
}

impl Network {
    /// Prepares links to all participants of the configuration.
    pub(crate) fn new(context: &Context, config: &EngineConfig, identity: &Identity) -> Self {
        // A committee is not empty, so this is never the alternative.
        let participants = NonZeroUsize::new(identity.committee.len()).unwrap_or(NZUsize!(1));
        let (mut lookup, mut oracle) = lookup::Network::new(
            context.child("network"),
            network_config(config, identity, participants),
        );
        // The only set there ever is; one of another epoch belongs to another engine.
        let _ = oracle.track(config.epoch, addresses(&config.participants));
        let quota = Quota::per_second(NZU32!(MESSAGES_PER_SECOND_MAX));
        let votes = lookup.register(0, quota);
        let certificates = lookup.register(1, quota);
        let requests = lookup.register(2, quota);
        let (presence, _) = lookup.register(3, quota);
        Self { lookup, oracle, votes, certificates, requests, links: Links { presence } }
    }
}

/// Sees which participants are connected, at the price of a channel on which nothing is sent.
pub(crate) struct Links {
    presence: Sender,
}

impl Links {
    /// Returns the keys of the participants that are connected, in order. `None` if asked more
    /// often than the channel's quota allows.
    pub(crate) fn connected(&mut self) -> Option<Vec<[u8; 32]>> {
        let reachable = self.presence.check(Recipients::All).ok()?.recipients();
        Some(reachable.iter().map(key_bytes).collect())
    }
}

/// Returns the dialling addresses by key. The keys have been checked before; one that is none
/// would simply not be dialled.
fn addresses(participants: &[Participant]) -> Map<PublicKey, Address> {
    Map::from_iter_dedup(participants.iter().filter_map(|participant| {
        Some((decode_key(&participant.key).ok()?, Address::from(participant.address)))
    }))
}

/// Returns how to link with the participants.
fn network_config(
    config: &EngineConfig,
    identity: &Identity,
    participants: NonZeroUsize,
) -> lookup::Config<Upgrader> {
    let handshake = Cups::new(
        Sake {
            signer: identity.key.clone(),
            synchrony_bound: CLOCK_ALLOWANCE,
            max_handshake_age: CLOCK_ALLOWANCE * 2,
            version: sake::Version::V1,
        },
        cups::Version::V1,
    );
    let namespace = namespaces(&config.chain_id, config.epoch, &identity.committee).network;
    lookup::Config {
        handshake,
        namespace,
        listen: config.listen,
        allow_private_ips: true,
        allow_dns: false,
        bypass_ip_check: true,
        max_message_size: MESSAGE_BYTES_MAX,
        max_peers_per_set: participants,
        mailbox_size: NonZeroUsize::new(config.mailbox_size).unwrap_or(NZUsize!(1)),
        send_batch_size: NZUsize!(8),
        handshake_timeout: CONNECT_TIMEOUT,
        dial_timeout: CONNECT_TIMEOUT * 2,
        peer_connection_cooldown: REDIAL_COOLDOWN,
        max_concurrent_handshakes: NZU32!(512),
        allowed_handshake_rate_per_ip: Quota::per_second(NZU32!(HANDSHAKES_PER_ADDRESS_MAX)),
        allowed_handshake_rate_per_subnet: Quota::per_second(NZU32!(HANDSHAKES_PER_SUBNET_MAX)),
        ping_frequency: PING_INTERVAL,
        dial_frequency: DIAL_INTERVAL,
        tracked_peer_sets: NZUsize!(1),
        block_duration: config.block_duration,
    }
}
