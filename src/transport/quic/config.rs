//! Settings of the QUIC transport.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::transport::{Limits, LimitsError};

/// Settings of the QUIC transport. [`QuicConfig::validate`] checks what each field states.
#[derive(Clone, Debug)]
pub struct QuicConfig {
    /// Address of the one UDP socket, for listening and dialling; port 0 takes a free one.
    /// Default: `0.0.0.0:0`.
    pub listen: SocketAddr,
    /// All peers are on this machine: datagrams up to 65,000 bytes without segmentation offload,
    /// about a quarter faster there. Otherwise up to 6,500 bytes with offload, of which discovery
    /// uses what the path carries. Elsewhere than on loopback it only costs throughput.
    /// Default: false.
    pub loopback: bool,
    /// Bounds of frames, queues and budgets, per peer and class.
    /// Default and bounds: see [`Limits`].
    pub limits: Limits,
    /// Bytes per stream that may be under way or unread below the receive budget; also what the
    /// network layer may buffer per peer and class. Throughput to a peer is at most this per
    /// round trip. Default: 8 MiB. Bound: 64 KiB to 1 GiB.
    pub stream_window_bytes: u32,
    /// A link is lost when nothing is heard for this long after a keep-alive was sent; so a dead
    /// peer shows after at most this and `keep_alive` together.
    /// Default: 3 s. Bound: at least twice `keep_alive`, at most 10 minutes.
    pub idle_timeout: Duration,
    /// Pause after which a silent link is probed. A link that stays silent for one and a half of
    /// these gives way to a newer one of the same key.
    /// Default: 1 s. Bound: at least 10 ms, at most half of `idle_timeout`.
    pub keep_alive: Duration,
    /// How long the transport's handshake, and after it the exchange of hellos, may take each.
    /// Default: 5 s. Bound: more than one and a half `keep_alive`, at most 60 s.
    pub handshake_timeout: Duration,
    /// Incoming handshakes under way at once; more are refused. From half of it on, addresses
    /// must prove first that they receive what is sent to them.
    /// Default: 64. Bound: 2 to 65,536.
    pub pending_handshakes_max: usize,
    /// First pause before a link is dialled again; doubles with each failure.
    /// Default: 50 ms. Bound: at least 1 ms.
    pub redial_backoff_min: Duration,
    /// Longest pause before a link is dialled again. A link that lasted this long resets the
    /// pause. Default: 2 s. Bound: at least `redial_backoff_min`, at most 60 s.
    pub redial_backoff_max: Duration,
    /// Seed of the random part of the pauses. Should differ between validators.
    /// Default: 0. Bound: none; the peer's key is mixed in.
    pub jitter_seed: u64,
    /// Bytes asked of the system for each of the socket's two buffers. What it grants is logged;
    /// less costs throughput only.
    /// Default: 8 MiB. Bound: 64 KiB to 1 GiB.
    pub socket_buffer_bytes: usize,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            loopback: false,
            limits: Limits::default(),
            stream_window_bytes: 8 << 20,
            idle_timeout: Duration::from_secs(3),
            keep_alive: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(5),
            pending_handshakes_max: 64,
            redial_backoff_min: Duration::from_millis(50),
            redial_backoff_max: Duration::from_secs(2),
            jitter_seed: 0,
            socket_buffer_bytes: 8 << 20,
        }
    }
}

/// A setting outside its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The limits contradict each other.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// A size or count outside its bound.
    #[error("{field} is {value}: it must be from {min} to {max}")]
    OutOfBounds {
        /// The field.
        field: &'static str,
        /// What was configured.
        value: u64,
        /// Smallest possible value.
        min: u64,
        /// Largest possible value.
        max: u64,
    },
    /// A duration outside its bound.
    #[error("{field} is {value:?}: it must be from {min:?} to {max:?}")]
    DurationOutOfBounds {
        /// The field.
        field: &'static str,
        /// What was configured.
        value: Duration,
        /// Shortest possible value, given the other fields.
        min: Duration,
        /// Longest possible value, given the other fields.
        max: Duration,
    },
}

impl QuicConfig {
    /// Checks every bound and relation that the fields state.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.limits.validate()?;
        let gib = 1 << 30;
        within("stream_window_bytes", u64::from(self.stream_window_bytes), 64 << 10, gib)?;
        within("pending_handshakes_max", self.pending_handshakes_max as u64, 2, 65_536)?;
        within("socket_buffer_bytes", self.socket_buffer_bytes as u64, 64 << 10, gib)?;
        let ms = Duration::from_millis;
        let minute = Duration::from_mins(1);
        lasts("idle_timeout", self.idle_timeout, ms(20), minute * 10)?;
        lasts("keep_alive", self.keep_alive, ms(10), self.idle_timeout / 2)?;
        let least = self.silence() + ms(1);
        lasts("handshake_timeout", self.handshake_timeout, least, minute)?;
        lasts("redial_backoff_min", self.redial_backoff_min, ms(1), self.redial_backoff_max)?;
        lasts("redial_backoff_max", self.redial_backoff_max, self.redial_backoff_min, minute)?;
        Ok(())
    }

    /// How long a link must be silent before a newer one of the same key replaces it. A live peer
    /// is heard at least once per `keep_alive`.
    pub(super) fn silence(&self) -> Duration {
        self.keep_alive + self.keep_alive / 2
    }
}

fn within(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::OutOfBounds { field, value, min, max })
}

fn lasts(
    field: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::DurationOutOfBounds { field, value, min, max })
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::transport::PerClass;

    fn broken(change: impl FnOnce(&mut QuicConfig)) -> ConfigError {
        let mut config = QuicConfig::default();
        change(&mut config);
        config.validate().expect_err("out of bounds")
    }

    #[test]
    fn the_default_is_valid_and_each_bound_is_checked() {
        QuicConfig::default().validate().expect("the default");
        broken(|c| c.stream_window_bytes = 1);
        broken(|c| c.pending_handshakes_max = 1);
        broken(|c| c.socket_buffer_bytes = 0);
        broken(|c| c.idle_timeout = Duration::from_secs(1));
        broken(|c| c.keep_alive = Duration::from_secs(2));
        broken(|c| c.handshake_timeout = Duration::from_secs(1));
        broken(|c| c.redial_backoff_min = Duration::ZERO);
        broken(|c| c.redial_backoff_min = Duration::from_secs(3));
        let small = PerClass { control: 1 << 20, bulk: 1 << 20 };
        assert!(matches!(
            broken(|c| c.limits.receive_budget_bytes = small),
            ConfigError::Limits(LimitsError::HoldsNoFrame { field: "receive_budget_bytes", .. })
        ));
        broken(|c| c.limits.send_queue_bytes = small);
        broken(|c| c.limits.send_queue_bytes.bulk = 1 << 40);
        broken(|c| c.limits.frame_bytes_max.control = 10);
    }
}
